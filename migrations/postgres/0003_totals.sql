-- How many records of each kind a project has. A list says it on every page, and to count them took
-- longer with each that came.
CREATE TABLE totals (
    project text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,  -- the table that is counted
    -- Who changes a row has it locked until the commit. So each server process of PostgreSQL has
    -- its own, nearly always, and the total is the sum of them.
    slot integer NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (project, kind, slot)
) WITH (fillfactor = 50);  -- room for the versions of a row that changes all the time

CREATE FUNCTION count_record() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed text := CASE TG_OP WHEN 'INSERT' THEN NEW.project ELSE OLD.project END;
    step integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    INSERT INTO totals AS t (project, kind, slot, number)
    VALUES (changed, TG_TABLE_NAME, pg_backend_pid() % 16, step)
    ON CONFLICT (project, kind, slot) DO UPDATE SET number = t.number + step;
    RETURN NULL;
END
$$;

-- From here on nobody writes until this is committed, so that what is counted below is all.
CREATE TRIGGER baselines_counted AFTER INSERT OR DELETE ON baselines
    FOR EACH ROW EXECUTE FUNCTION count_record();
CREATE TRIGGER verdicts_counted AFTER INSERT OR DELETE ON verdicts
    FOR EACH ROW EXECUTE FUNCTION count_record();

INSERT INTO totals (project, kind, slot, number)
SELECT project, 'baselines', 0, count(*) FROM baselines GROUP BY project;

INSERT INTO totals (project, kind, slot, number)
SELECT project, 'verdicts', 0, count(*) FROM verdicts GROUP BY project;
