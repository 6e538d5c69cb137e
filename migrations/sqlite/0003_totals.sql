-- How many records of each kind a project has. A list says it on every page, and to count them took
-- longer with each that came.
CREATE TABLE totals (
    project TEXT NOT NULL,
    kind TEXT NOT NULL,  -- the table that is counted
    number INTEGER NOT NULL,
    PRIMARY KEY (project, kind)
) WITHOUT ROWID;

CREATE TRIGGER baselines_inserted AFTER INSERT ON baselines BEGIN
    INSERT INTO totals (project, kind, number) VALUES (new.project, 'baselines', 1)
    ON CONFLICT (project, kind) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER baselines_deleted AFTER DELETE ON baselines BEGIN
    UPDATE totals SET number = number - 1 WHERE project = old.project AND kind = 'baselines';
END;

CREATE TRIGGER verdicts_inserted AFTER INSERT ON verdicts BEGIN
    INSERT INTO totals (project, kind, number) VALUES (new.project, 'verdicts', 1)
    ON CONFLICT (project, kind) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER verdicts_deleted AFTER DELETE ON verdicts BEGIN
    UPDATE totals SET number = number - 1 WHERE project = old.project AND kind = 'verdicts';
END;

INSERT INTO totals (project, kind, number)
SELECT project, 'baselines', count(*) FROM baselines GROUP BY project;

INSERT INTO totals (project, kind, number)
SELECT project, 'verdicts', count(*) FROM verdicts GROUP BY project;
