-- One row per run. `state`, `step` and `error` repeat what the journal says, for listings.
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    flow TEXT NOT NULL,
    subject TEXT NOT NULL,
    params TEXT NOT NULL,
    requester TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    begun_ms BIGINT,
    finished_ms BIGINT,
    state TEXT NOT NULL,
    step TEXT,
    error TEXT,
    conclusion TEXT,
    fence BIGINT NOT NULL,
    lease_owner TEXT,
    lease_until_ms BIGINT NOT NULL
);
-- At most one run of a flow and subject has begun and not finished.
CREATE UNIQUE INDEX runs_one_at_a_time ON runs (flow, subject) WHERE begun_ms IS NOT NULL AND finished_ms IS NULL;
CREATE INDEX runs_unfinished ON runs (created_ms) WHERE finished_ms IS NULL;
CREATE INDEX runs_by_creation ON runs (created_ms);

-- Append-only. `fence` is 0 for signals, which anybody may append. `nonce` makes
-- a repeated append of one event the same append.
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL REFERENCES runs (id),
    nonce TEXT NOT NULL UNIQUE,
    at_ms BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    event TEXT NOT NULL
);
CREATE INDEX journal_by_run ON journal (run_id, seq);

CREATE TABLE findings (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    message TEXT NOT NULL,
    opened_ms BIGINT NOT NULL,
    closed_ms BIGINT
);

-- Acknowledged heartbeats. `acknowledged_us` is by the clock of the writing node.
CREATE TABLE heartbeats (
    database TEXT NOT NULL,
    seq BIGINT NOT NULL,
    acknowledged_us BIGINT NOT NULL,
    commit_lsn TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    PRIMARY KEY (database, seq)
);
CREATE INDEX heartbeats_by_time ON heartbeats (database, acknowledged_us);
