#!/bin/sh
# Upload run.json as the baseline of a commit: on main, after the benchmarks.
# Safe to run again: of a commit that is measured twice the first run stays.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}" "${GIT_SHA:?}" "${GIT_REF:?}"

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
trap 'exit 2' INT TERM
# A branch may be called c++ or fix#12, and a version 1.0+b5.
encoded() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g'; }
# On standard input the key stays out of the process list.
code=$(printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
    curl -gsS --path-as-is --retry 5 --retry-connrefused --retry-max-time 60 --max-time 60 -H @- -T run.json -o "$answer" -w '%{http_code}' \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/versions/$GIT_SHA?git_sha=$(encoded "$GIT_SHA")&git_ref=$(encoded "$GIT_REF")")
case "$code $(cat "$answer")" in
20[01]\ *'"etag"'*) cat "$answer" ;;
409\ *'"ALREADY_EXISTS"'*) { echo "$GIT_SHA has a baseline, which stays:"; cat "$answer"; } >&2 ;;
*) { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2; exit 1 ;;
esac
