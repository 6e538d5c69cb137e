-- By default a table is analyzed once a tenth of it has changed. A project that began since then is
-- not in the statistics, and the planner takes it for empty: each page of it is a walk over all of
-- it, and a list by two tags one for each record. So many changes are never a large project.
ALTER TABLE baselines
    SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000);
ALTER TABLE baseline_tags
    SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000);
ALTER TABLE receipts
    SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000);
ALTER TABLE receipt_summaries
    SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000);
ALTER TABLE verdicts
    SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000);
