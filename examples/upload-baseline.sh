#!/bin/sh
# Upload run.json as the baseline of a commit: on main, after the benchmarks.
# Safe to run again: the same upload is answered 200 with the first answer.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}" "${GIT_SHA:?}" "${GIT_REF:?}"

curl --fail-with-body -gsS --retry 5 --retry-connrefused \
    -H "Authorization: Bearer $PERFGATE_KEY" -T run.json \
    "$PERFGATE_URL/projects/$PROJECT/baselines/$BENCHMARK/versions/$GIT_SHA?git_sha=$GIT_SHA&git_ref=$GIT_REF"
