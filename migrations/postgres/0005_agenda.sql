-- Up to which due time each line of each schedule was dealt with. A line is named by
-- what it says, so that one that was edited is another.
CREATE TABLE agenda_marks (
    database TEXT NOT NULL,
    line TEXT NOT NULL,
    through_ms BIGINT NOT NULL,
    PRIMARY KEY (database, line)
);

-- A run by schedule does not begin after this; none where it may begin at any time.
ALTER TABLE runs ADD COLUMN begin_by_ms BIGINT;
