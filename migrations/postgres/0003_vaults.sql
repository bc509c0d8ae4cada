-- Which vault each name meant when it was first written to, so that another one
-- in its place is noticed. A row is never changed.
CREATE TABLE vaults (
    name TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    known_since_ms BIGINT NOT NULL
);
