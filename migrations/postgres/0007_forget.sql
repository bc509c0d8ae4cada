-- What is over is deleted by its age.
CREATE INDEX runs_by_end ON runs (finished_ms) WHERE finished_ms IS NOT NULL;
-- The newest run of each series stays: those whose ids differ in their last part alone.
CREATE INDEX runs_by_series ON runs ((rtrim(id, replace(id, '/', ''))), requester, created_ms);
CREATE INDEX findings_by_end ON findings (closed_ms) WHERE closed_ms IS NOT NULL;
