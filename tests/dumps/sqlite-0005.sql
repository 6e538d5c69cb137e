BEGIN TRANSACTION;
CREATE TABLE baseline_tags (
    project TEXT NOT NULL,
    tag TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (project, tag, seq)
) WITHOUT ROWID;
INSERT INTO "baseline_tags" VALUES('web','blessed',6);
INSERT INTO "baseline_tags" VALUES('web','größer',1);
INSERT INTO "baseline_tags" VALUES('web','nightly',1);
INSERT INTO "baseline_tags" VALUES('web','nightly',6);
INSERT INTO "baseline_tags" VALUES('web','t0',2);
INSERT INTO "baseline_tags" VALUES('web','t0',7);
INSERT INTO "baseline_tags" VALUES('web','t1',2);
INSERT INTO "baseline_tags" VALUES('web','t1',7);
INSERT INTO "baseline_tags" VALUES('web','t2',2);
INSERT INTO "baseline_tags" VALUES('web','t2',7);
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
INSERT INTO "baselines" VALUES(1,'1e5ba85e7447c8f4aaa8b7a6ca50c629','web','api/list','v1','refs/heads/main','0a1b2c','{"runner": "ci-7"}','["nightly", "größer"]','2026-11-28T03:14:51.462262Z','contributor:00a1933e','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','upload',NULL,1);
INSERT INTO "baselines" VALUES(2,'62d187322ef97aa5601b39bb931fcd73','web','api/list','v2',NULL,NULL,'{}','["t0", "t1", "t2"]','2026-11-28T03:14:51.470691Z','contributor:00a1933e','3fdb8e02381e5bc6b1f89c982ef8630c264ac416cd95be7744967005eb691f18','upload',NULL,2);
INSERT INTO "baselines" VALUES(3,'ca2d0d63e2a64579527b5c2f36d193ad','web','tests/test_io.py::test_read[gzip]','v1',NULL,NULL,'{}','[]','2026-11-28T03:14:51.472272Z','admin:6cccce4c','3fca957f7a97759f7493645900dbf4fe2bbaf6f8e7c35da51840a300d3857055','upload',NULL,3);
INSERT INTO "baselines" VALUES(5,'f699a62e706f220fad55f44959192f40','cli','made','20261128T031451.475532Z-1b287f86',NULL,NULL,'{}','[]','2026-11-28T03:14:51.475532Z','contributor:00a1933e','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','upload',NULL,5);
INSERT INTO "baselines" VALUES(6,'47af9370dfbe4fa67e594f9a23a82daa','web','api/list','prod','refs/heads/main','0a1b2c','{"runner": "ci-7"}','["nightly", "blessed"]','2026-11-28T03:14:51.476692Z','promoter:58f538a5','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','promote','v1',1);
INSERT INTO "baselines" VALUES(7,'d34275eec495ab5731fc6ca34105645f','web','api/list','normal',NULL,'f00','{}','["t0", "t1", "t2"]','2026-11-28T03:14:51.477724Z','promoter:58f538a5','fea71cb493fa2de0167d929d68037952e8f863c9e332fc5d5c19026998247dc9','promote','v2',6);
INSERT INTO "baselines" VALUES(8,'c1ab3806769f26f9fe2b09381bf29eba','cli','api/list','orphan',NULL,NULL,'{"empty": "", "quote": "''\";--", "line": "a\nb"}','[]','2026-11-28T03:14:51.478984Z','promoter:58f538a5','496e6ddff990d297707879ea534e0d2e05d56de7b86327d5c456f009ddc73eec','promote','v1',4);
CREATE TABLE perfgate_migrations (
                    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL);
INSERT INTO "perfgate_migrations" VALUES(1,'baselines','2026-11-28T03:14:51.438009+00:00');
INSERT INTO "perfgate_migrations" VALUES(2,'gate','2026-11-28T03:14:51.438497+00:00');
INSERT INTO "perfgate_migrations" VALUES(3,'totals','2026-11-28T03:14:51.439194+00:00');
INSERT INTO "perfgate_migrations" VALUES(4,'flakiness','2026-11-28T03:14:51.439489+00:00');
INSERT INTO "perfgate_migrations" VALUES(5,'large_projects','2026-11-28T03:14:51.440031+00:00');
CREATE TABLE receipt_summaries (
    receipt_id INTEGER PRIMARY KEY REFERENCES receipts (id) ON DELETE CASCADE,
    project TEXT NOT NULL,
    body TEXT NOT NULL  -- JSON
);
INSERT INTO "receipt_summaries" VALUES(1,'web','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"run-1","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":102,"median":101,"min":100}}}');
INSERT INTO "receipt_summaries" VALUES(2,'web','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"run-1","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":103,"median":102,"min":101}}}');
INSERT INTO "receipt_summaries" VALUES(3,'web','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"baseline","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":9,"median":8,"min":7}}}');
INSERT INTO "receipt_summaries" VALUES(4,'cli','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"run-1","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":9,"median":8,"min":7}}}');
INSERT INTO "receipt_summaries" VALUES(5,'cli','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"run-1","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":102,"median":101,"min":100}}}');
INSERT INTO "receipt_summaries" VALUES(6,'web','{"failed":0,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"baseline","samples":2,"stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1},"wall_ms":{"max":103,"median":102,"min":101}}}');
CREATE TABLE receipts (
    id INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    body TEXT NOT NULL  -- canonical JSON
);
INSERT INTO "receipts" VALUES(1,'web','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"2026-03-08T12:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"run-1","started_at":"2026-03-08T11:59:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":100,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":102}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":102,"mean":1e-07,"median":101,"min":100}},"tool":{"name":"perfgate","version":"0.15.0"}}');
INSERT INTO "receipts" VALUES(2,'web','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"2026-03-08T12:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"run-1","started_at":"2026-03-08T11:59:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":101,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":103}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":103,"mean":1e-07,"median":102,"min":101}},"tool":{"name":"perfgate","version":"0.15.0"}}');
INSERT INTO "receipts" VALUES(3,'web','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"1970-01-01T00:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"baseline","started_at":"1970-01-01T00:00:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":7,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":9}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":9,"mean":1e-07,"median":8,"min":7}},"tool":{"name":"perfgate","version":"0.15.0"},"x-unknown":[1e-07,18446744073709551616,"naïve 🚀",null,{}]}');
INSERT INTO "receipts" VALUES(4,'cli','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"2026-03-08T12:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"run-1","started_at":"2026-03-08T11:59:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":7,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":9}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":9,"mean":1e-07,"median":8,"min":7}},"tool":{"name":"perfgate","version":"0.15.0"},"x-unknown":[1e-07,18446744073709551616,"naïve 🚀",null,{}]}');
INSERT INTO "receipts" VALUES(5,'cli','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"2026-03-08T12:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"run-1","started_at":"2026-03-08T11:59:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":100,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":102}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":102,"mean":1e-07,"median":101,"min":100}},"tool":{"name":"perfgate","version":"0.15.0"}}');
INSERT INTO "receipts" VALUES(6,'web','{"bench":{"command":["sleep","0.1"],"name":"b","repeat":2,"warmup":0},"run":{"ended_at":"1970-01-01T00:00:00Z","host":{"arch":"x86_64","cpu_count":8,"memory_bytes":null,"os":"linux"},"id":"baseline","started_at":"1970-01-01T00:00:00Z"},"samples":[{"exit_code":0,"timed_out":false,"wall_ms":101,"warmup":false},{"exit_code":0,"stdout":"done\n","wall_ms":103}],"schema":"perfgate.run.v1","stats":{"throughput_per_s":{"max":2.0,"median":1.5,"min":1,"stddev":null},"wall_ms":{"max":103,"mean":1e-07,"median":102,"min":101}},"tool":{"name":"perfgate","version":"0.15.0"}}');
CREATE TABLE totals (
    project TEXT NOT NULL,
    kind TEXT NOT NULL,  -- the table that is counted
    number INTEGER NOT NULL,
    PRIMARY KEY (project, kind)
) WITHOUT ROWID;
INSERT INTO "totals" VALUES('cli','baselines',2);
INSERT INTO "totals" VALUES('web','baselines',5);
INSERT INTO "totals" VALUES('web','verdicts',3);
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
, wall_ms_cv REAL, flakiness_score REAL);
INSERT INTO "verdicts" VALUES(1,'07d268ba8180d8470dfab4f8cc920df2','web','api/list','r0','pass','{"pass": 2, "warn": 0, "fail": 0, "skip": 1}','[]',NULL,NULL,'2026-11-28T03:14:51.482765Z','contributor:00a1933e',NULL,NULL);
INSERT INTO "verdicts" VALUES(2,'391941db471af964d10fe0c57f705fbb','web','api/list','r1','fail','{"pass": 2, "warn": 1, "fail": 0, "skip": 1}','["wall_ms_fail"]','größer',NULL,'2026-11-28T03:14:51.483747Z','contributor:00a1933e',0.3,0.15);
INSERT INTO "verdicts" VALUES(3,'b3e86d07fca521625499f04780418230','web','api/list','r2','warn','{"pass": 2, "warn": 2, "fail": 0, "skip": 1}','["wall_ms_warn", "wall_ms_warn"]','größer',NULL,'2026-11-28T03:14:51.484663Z','contributor:00a1933e',0.6,0.575);
CREATE UNIQUE INDEX baselines_by_version ON baselines (project, benchmark, version);
CREATE INDEX baselines_by_benchmark ON baselines (project, benchmark, seq);
CREATE INDEX baselines_by_project ON baselines (project, seq);
CREATE INDEX baselines_by_git_ref ON baselines (project, git_ref, seq) WHERE git_ref IS NOT NULL;
CREATE INDEX baselines_by_git_sha ON baselines (project, git_sha, seq) WHERE git_sha IS NOT NULL;
CREATE INDEX baselines_promoted ON baselines (project, seq) WHERE source = 'promote';
CREATE INDEX baselines_by_receipt ON baselines (receipt_id);
CREATE INDEX baselines_by_benchmark_git_ref ON baselines (project, benchmark, git_ref, seq)
    WHERE git_ref IS NOT NULL;
CREATE INDEX baselines_promoted_by_benchmark ON baselines (project, benchmark, seq)
    WHERE source = 'promote';
CREATE UNIQUE INDEX verdicts_by_id ON verdicts (project, id);
CREATE INDEX verdicts_by_project ON verdicts (project, seq);
CREATE INDEX verdicts_by_benchmark ON verdicts (project, benchmark, seq);
CREATE INDEX verdicts_by_status ON verdicts (project, status, seq);
CREATE INDEX verdicts_by_git_ref ON verdicts (project, git_ref, seq) WHERE git_ref IS NOT NULL;
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
CREATE INDEX baselines_by_created_at ON baselines (project, created_at DESC);
CREATE INDEX verdicts_by_created_at ON verdicts (project, created_at DESC);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('baselines',9);
INSERT INTO "sqlite_sequence" VALUES('verdicts',3);
COMMIT;
