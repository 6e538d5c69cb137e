#!/bin/sh
# Upload run.json as the baseline of a commit: on main, after the benchmarks.
# Safe to run again: of a commit that is measured twice the first run stays.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}" "${GIT_SHA:?}" "${GIT_REF:?}"

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
trap 'exit 2' HUP INT TERM
# Prints the status. Tries for minutes: to ask the same again is safe.
ask() {
    for pause in 2 4 8 16 0; do
        failure=0
        # No ~/.curlrc changes what is told. On standard input the key stays out of the process list.
        code=$(printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
            curl -q -gsS --path-as-is --connect-timeout 10 --max-time 60 \
                -H @- -w '%{http_code}' "$@") || failure=$?
        case "$failure $code" in
        0\ 429 | 0\ 50[0234] | [67]\ * | 18\ * | 28\ * | 35\ * | 5[256]\ * | 92\ *) sleep "$pause" ;;
        *) break ;;
        esac
    done
    echo "$code"
    return "$failure"
}
# A branch may be called c++ or fix#12, and a version 1.0+b5.
encoded() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g'; }
code=$(ask -T run.json -o "$answer" \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/versions/$(encoded "$GIT_SHA")?git_sha=$(encoded "$GIT_SHA")&git_ref=$(encoded "$GIT_REF")") || exit 1
case "$code $(cat "$answer")" in
20[01]\ *'"etag"'*) cat "$answer" ;;
409\ *'"ALREADY_EXISTS"'*) { echo "$GIT_SHA has a baseline, which stays:"; cat "$answer"; } >&2 ;;
*) { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2; exit 1 ;;
esac
