-- Each turn of the safety lever, append-only; the last one says how it stands. `recorded`
-- says whether the turn is in the evidence.
CREATE TABLE lever (
    seq BIGINT PRIMARY KEY,
    is_on BIGINT NOT NULL,
    who TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    recorded BIGINT NOT NULL DEFAULT 0
);
