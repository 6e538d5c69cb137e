-- The text of a receipt, away from the rows that lists walk, so that no list pages receipts in.
-- A promotion points at the receipt that is there already.
CREATE TABLE receipts (
    id INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    body TEXT NOT NULL  -- canonical JSON
);

CREATE TABLE baselines (
    -- The order of all records. AUTOINCREMENT, since a plain rowid is given out again after the
    -- newest row is deleted.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    project TEXT NOT NULL,
    benchmark TEXT NOT NULL,
    version TEXT NOT NULL,
    git_ref TEXT,
    git_sha TEXT,
    metadata TEXT NOT NULL,  -- a JSON object of strings
    tags TEXT NOT NULL,  -- a JSON array of strings, in the client's order
    created_at TEXT NOT NULL,  -- RFC 3339, UTC, microseconds, 'Z': text order is time order
    created_by TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('upload', 'promote')),
    promoted_from TEXT,
    receipt_id INTEGER NOT NULL REFERENCES receipts (id)
);

CREATE UNIQUE INDEX baselines_by_version ON baselines (project, benchmark, version);
CREATE INDEX baselines_by_benchmark ON baselines (project, benchmark, seq);
CREATE INDEX baselines_by_project ON baselines (project, seq);
CREATE INDEX baselines_by_created_at ON baselines (project, created_at);
CREATE INDEX baselines_by_git_ref ON baselines (project, git_ref, seq) WHERE git_ref IS NOT NULL;
CREATE INDEX baselines_by_git_sha ON baselines (project, git_sha, seq) WHERE git_sha IS NOT NULL;
CREATE INDEX baselines_promoted ON baselines (project, seq) WHERE source = 'promote';
CREATE INDEX baselines_by_receipt ON baselines (receipt_id);

-- One row for each tag of a baseline, for the filter; baselines.tags keeps their order.
CREATE TABLE baseline_tags (
    project TEXT NOT NULL,
    tag TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (project, tag, seq)
) WITHOUT ROWID;
