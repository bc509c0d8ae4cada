-- Where a run may be driven: JSON lists of names. Empty means anywhere, which is what
-- a run means that was stored before, or by a node of an older version.
ALTER TABLE runs ADD COLUMN regions TEXT NOT NULL DEFAULT '[]';
-- What it works on, for the limits of each.
ALTER TABLE runs ADD COLUMN vaults TEXT NOT NULL DEFAULT '[]';
ALTER TABLE runs ADD COLUMN database TEXT;

-- The nodes that serve, and when each was last heard. `roles` is a JSON list.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    roles TEXT NOT NULL,
    version TEXT NOT NULL,
    seen_ms BIGINT NOT NULL
);
