#!/bin/sh
# Upload run.json as the baseline of a commit: on main, after the benchmarks.
# Safe to run again: the same upload is answered 200 with the first answer.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}" "${GIT_SHA:?}" "${GIT_REF:?}"

# A branch may be called c++ or fix#12.
ref=$(printf %s "$GIT_REF" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
# By way of standard input the key is in no process list.
printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
    curl --fail-with-body -gsS --retry 5 --retry-connrefused -H @- -T run.json \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/versions/$GIT_SHA?git_sha=$GIT_SHA&git_ref=$ref"
