-- By default a table is analyzed once a tenth of it has changed. A project begun since then is not
-- in the statistics, and the planner takes it for empty: each page then scans all of the project,
-- and a list by two tags once for each record. Up to 1,000 rows that costs little.
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
