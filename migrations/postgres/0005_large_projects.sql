-- Lists are newest first. Walked from the newest record on, an index by time gives a page's records
-- at once, and all that follow are passed by; from the oldest on, each was newer than those before,
-- and took the place of one on the page.
DROP INDEX baselines_by_created_at;
DROP INDEX verdicts_by_created_at;
CREATE INDEX baselines_by_created_at ON baselines (project, created_at DESC, seq DESC);
CREATE INDEX verdicts_by_created_at ON verdicts (project, created_at DESC, seq DESC);

-- Without statistics, as in a new database or after pg_upgrade, the planner takes baselines_by_benchmark
-- for as good a way to one version as this index, and of two equals that which was made last: it read
-- every version of the benchmark, for each upload.
DROP INDEX baselines_by_version;
CREATE UNIQUE INDEX baselines_by_version ON baselines (project, benchmark, version);

-- Count by statement, and no longer by row: one that wrote or deleted very many of a project changed
-- a row of the totals once for each of them, and every change took longer than the one before, for a
-- transaction keeps all the versions that it made.
DROP TRIGGER baselines_counted ON baselines;
DROP TRIGGER verdicts_counted ON verdicts;
DROP FUNCTION count_record();

CREATE FUNCTION count_records() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO totals AS t (project, kind, slot, number)
    SELECT project, TG_TABLE_NAME, pg_backend_pid() % 16,
        CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
    FROM changed GROUP BY project ORDER BY project  -- or two statements could lock each other out
    ON CONFLICT (project, kind, slot) DO UPDATE SET number = t.number + excluded.number;
    RETURN NULL;
END
$$;

CREATE TRIGGER baselines_inserted AFTER INSERT ON baselines
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_records();
CREATE TRIGGER baselines_deleted AFTER DELETE ON baselines
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_records();
CREATE TRIGGER verdicts_inserted AFTER INSERT ON verdicts
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_records();
CREATE TRIGGER verdicts_deleted AFTER DELETE ON verdicts
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_records();

-- A table may also be emptied at once.
CREATE FUNCTION forget_totals() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM totals WHERE kind = TG_TABLE_NAME;
    RETURN NULL;
END
$$;

CREATE TRIGGER baselines_emptied AFTER TRUNCATE ON baselines
    FOR EACH STATEMENT EXECUTE FUNCTION forget_totals();
CREATE TRIGGER verdicts_emptied AFTER TRUNCATE ON verdicts
    FOR EACH STATEMENT EXECUTE FUNCTION forget_totals();
