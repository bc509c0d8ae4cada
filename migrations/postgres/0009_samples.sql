-- What sources answered, to hold copies against: digests and parts of clusters, no values
-- of queries. `taken_us` is by the clock of the writing node, `as_of_us` by the source's.
CREATE TABLE samples (
    database TEXT NOT NULL,
    question TEXT NOT NULL,
    taken_us BIGINT NOT NULL,
    as_of_us BIGINT NOT NULL,
    system_id TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    from_lsn TEXT NOT NULL,
    to_lsn TEXT NOT NULL,
    told TEXT NOT NULL,
    PRIMARY KEY (database, question, taken_us)
);
