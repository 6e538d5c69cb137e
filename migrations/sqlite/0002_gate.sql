-- What comparing needs. First the part of each receipt that a comparison reads, so that twenty
-- records of history are a few kilobytes and not megabytes. It goes with its receipt.
CREATE TABLE receipt_summaries (
    receipt_id INTEGER PRIMARY KEY REFERENCES receipts (id) ON DELETE CASCADE,
    project TEXT NOT NULL,
    body TEXT NOT NULL  -- JSON
);

-- The summaries of the receipts that are there. Numbers stay text all the way, for SQL's integers
-- end at 2^63 - 1 and its doubles are printed with 15 digits: asked for two paths, of which the
-- second is in no object, json_extract answers an array of JSON text, [123,null], of which trim()
-- leaves what stands at the first, or nothing if that is null or absent.
INSERT INTO receipt_summaries (receipt_id, project, body)
SELECT r.id, r.project,
    '{' || (
        SELECT '"failed":' || count(CASE WHEN json_extract(s.value, '$.exit_code') <> 0
                OR json_extract(s.value, '$.timed_out') THEN 1 END)
            || ',"samples":' || count(*)
        FROM json_each(r.body, '$.samples') s
        WHERE json_extract(s.value, '$.warmup') IS NOT 1
    ) || ',"host":{' || (
        SELECT coalesce(group_concat('"' || name || '":' || text), '') FROM (
            SELECT name, trim(json_extract(r.body, '$.run.host.' || name, '$[0]'), '[,nul]') AS text
            FROM (SELECT 'arch' AS name UNION ALL SELECT 'cpu_count'
                UNION ALL SELECT 'memory_bytes' UNION ALL SELECT 'os'))
        WHERE text <> ''
    ) || '},"run_id":' || trim(json_extract(r.body, '$.run.id', '$[0]'), '[,nul]')
    || ',"stats":{' || (
        SELECT group_concat('"' || m.key || '":{"max":'
            || trim(json_extract(m.value, '$.max', '$[0]'), '[,nul]') || ',"median":'
            || trim(json_extract(m.value, '$.median', '$[0]'), '[,nul]') || ',"min":'
            || trim(json_extract(m.value, '$.min', '$[0]'), '[,nul]') || '}')
        FROM json_each(r.body, '$.stats') m
        WHERE m.type = 'object' AND m.key IN ('binary_bytes', 'cpu_ms', 'ctx_switches',
            'energy_uj', 'io_read_bytes', 'io_write_bytes', 'max_rss_kb', 'network_packets',
            'page_faults', 'throughput_per_s', 'wall_ms')
    ) || '}}'
FROM receipts r;

-- The newest record of a benchmark with a git_ref is what most pull requests are compared with,
-- and the newest promoted one what releases are: an index seek each. The other questions are
-- answered by the indexes that are there. A git_sha leads to the records of one commit; a tag is
-- looked up for one record after the other, from the newest down, in indexes alone. An index more
-- for either would cost every upload.
CREATE INDEX baselines_by_benchmark_git_ref ON baselines (project, benchmark, git_ref, seq)
    WHERE git_ref IS NOT NULL;
CREATE INDEX baselines_promoted_by_benchmark ON baselines (project, benchmark, seq)
    WHERE source = 'promote';

-- What comparisons came to. They stay when baselines are deleted.
CREATE TABLE verdicts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of all verdicts
    id TEXT NOT NULL,
    project TEXT NOT NULL,
    benchmark TEXT NOT NULL,
    run_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pass', 'warn', 'fail', 'skip')),
    counts TEXT NOT NULL,  -- a JSON object: how many metrics have each status
    reasons TEXT NOT NULL,  -- a JSON array of strings
    git_ref TEXT,
    git_sha TEXT,
    created_at TEXT NOT NULL,  -- RFC 3339, UTC, microseconds, 'Z': text order is time order
    created_by TEXT NOT NULL
);

CREATE UNIQUE INDEX verdicts_by_id ON verdicts (project, id);
CREATE INDEX verdicts_by_project ON verdicts (project, seq);
CREATE INDEX verdicts_by_benchmark ON verdicts (project, benchmark, seq);
CREATE INDEX verdicts_by_status ON verdicts (project, status, seq);
CREATE INDEX verdicts_by_created_at ON verdicts (project, created_at);
CREATE INDEX verdicts_by_git_ref ON verdicts (project, git_ref, seq) WHERE git_ref IS NOT NULL;
