-- How much the runs behind verdicts scatter: what a client sent, and what came of it.
ALTER TABLE verdicts ADD COLUMN wall_ms_cv double precision;
ALTER TABLE verdicts ADD COLUMN flakiness_score double precision;
