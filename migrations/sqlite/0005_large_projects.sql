-- Lists are newest first. Walked from the newest record on, an index by time gives a page's records
-- at once, and all that follow are passed by; from the oldest on, each was newer than those before,
-- and took the place of one on the page.
DROP INDEX baselines_by_created_at;
DROP INDEX verdicts_by_created_at;
CREATE INDEX baselines_by_created_at ON baselines (project, created_at DESC);
CREATE INDEX verdicts_by_created_at ON verdicts (project, created_at DESC);
