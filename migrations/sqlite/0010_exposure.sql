-- What looks at exposure came to, per vault of a database, in buckets of five minutes and of
-- a day; and up to where it was measured, by whichever node: that moves once for each stretch.
CREATE TABLE exposure (
    width_s BIGINT NOT NULL,
    begins_ms BIGINT NOT NULL,
    database TEXT NOT NULL,
    vault TEXT NOT NULL,
    max_ms BIGINT NOT NULL,
    over_ms BIGINT NOT NULL,
    measured_ms BIGINT NOT NULL,
    PRIMARY KEY (width_s, begins_ms, database, vault)
);
CREATE TABLE exposure_marks (
    database TEXT NOT NULL,
    vault TEXT NOT NULL,
    through_ms BIGINT NOT NULL,
    PRIMARY KEY (database, vault)
);
