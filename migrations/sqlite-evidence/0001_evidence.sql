-- Append-only. An entry's text is canonical: its bytes are what is hashed and signed.
CREATE TABLE evidence (
    idx BIGINT PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    entry TEXT NOT NULL,
    leaf_hash TEXT NOT NULL,
    signature TEXT NOT NULL
);
