-- What came of a commit, over all benchmarks.
CREATE INDEX verdicts_by_git_sha ON verdicts (project, git_sha, seq) WHERE git_sha IS NOT NULL;
