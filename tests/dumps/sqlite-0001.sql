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
INSERT INTO "baselines" VALUES(1,'c966aa58863d4372a2620d32f162a94c','web','api/list','v1','refs/heads/main','0a1b2c','{"runner": "ci-7"}','["nightly", "größer"]','2026-11-24T05:34:33.555293Z','contributor:00a1933e','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','upload',NULL,1);
INSERT INTO "baselines" VALUES(2,'19a55686f125ff2b97fdf83ac9971198','web','api/list','v2',NULL,NULL,'{}','["t0", "t1", "t2"]','2026-11-24T05:34:33.558134Z','contributor:00a1933e','3fdb8e02381e5bc6b1f89c982ef8630c264ac416cd95be7744967005eb691f18','upload',NULL,2);
INSERT INTO "baselines" VALUES(3,'25010be1dcdc0dec50407e3640e46b59','web','tests/test_io.py::test_read[gzip]','v1',NULL,NULL,'{}','[]','2026-11-24T05:34:33.559819Z','admin:6cccce4c','3fca957f7a97759f7493645900dbf4fe2bbaf6f8e7c35da51840a300d3857055','upload',NULL,3);
INSERT INTO "baselines" VALUES(5,'4276f5d5fe33f4895a81a75db4088734','cli','made','20261124T053433.563532Z-094b92e7',NULL,NULL,'{}','[]','2026-11-24T05:34:33.563532Z','contributor:00a1933e','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','upload',NULL,5);
INSERT INTO "baselines" VALUES(6,'a177c3bae077770f42cc3c1f04324265','web','api/list','prod','refs/heads/main','0a1b2c','{"runner": "ci-7"}','["nightly", "blessed"]','2026-11-24T05:34:33.564645Z','promoter:58f538a5','7f7b8262b0d77c1045f6ade0df0d1a9d4fb5a1a12507219b7c8ed8a7ac9c2242','promote','v1',1);
INSERT INTO "baselines" VALUES(7,'9f3cce976c91a20ccb5f1d27a493a40b','web','api/list','normal',NULL,'f00','{}','["t0", "t1", "t2"]','2026-11-24T05:34:33.565859Z','promoter:58f538a5','fea71cb493fa2de0167d929d68037952e8f863c9e332fc5d5c19026998247dc9','promote','v2',6);
INSERT INTO "baselines" VALUES(8,'35a59d6442def3dc9c99cf5a3d32b926','cli','api/list','orphan',NULL,NULL,'{"empty": "", "quote": "''\";--", "line": "a\nb"}','[]','2026-11-24T05:34:33.567416Z','promoter:58f538a5','496e6ddff990d297707879ea534e0d2e05d56de7b86327d5c456f009ddc73eec','promote','v1',4);
CREATE TABLE perfgate_migrations (
                    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL);
INSERT INTO "perfgate_migrations" VALUES(1,'baselines','2026-11-24T05:34:33.540289+00:00');
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
CREATE UNIQUE INDEX baselines_by_version ON baselines (project, benchmark, version);
CREATE INDEX baselines_by_benchmark ON baselines (project, benchmark, seq);
CREATE INDEX baselines_by_project ON baselines (project, seq);
CREATE INDEX baselines_by_created_at ON baselines (project, created_at);
CREATE INDEX baselines_by_git_ref ON baselines (project, git_ref, seq) WHERE git_ref IS NOT NULL;
CREATE INDEX baselines_by_git_sha ON baselines (project, git_sha, seq) WHERE git_sha IS NOT NULL;
CREATE INDEX baselines_promoted ON baselines (project, seq) WHERE source = 'promote';
CREATE INDEX baselines_by_receipt ON baselines (receipt_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('baselines',9);
COMMIT;
