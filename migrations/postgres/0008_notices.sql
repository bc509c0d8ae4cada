-- What is to be told through notifiers, once by id; a node claims a notice before it
-- tells it. `refused` says whether it was refused for good the last time.
CREATE TABLE notices (
    id TEXT PRIMARY KEY,
    notifier TEXT NOT NULL,
    content TEXT NOT NULL,
    stored_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    over_ms BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    lease_until_ms BIGINT NOT NULL DEFAULT 0,
    attempts BIGINT NOT NULL DEFAULT 0,
    refused BIGINT NOT NULL DEFAULT 0,
    sent_ms BIGINT
);
CREATE INDEX notices_to_tell ON notices (notifier, next_ms) WHERE sent_ms IS NULL;
CREATE INDEX notices_by_end ON notices (over_ms);
