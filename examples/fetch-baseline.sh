#!/bin/sh
# Fetch the baseline to compare with into baseline.json: on a pull request.
# Exit status 3: there is none yet. Nothing to compare with must not look like a pass.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}"

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
trap 'exit 2' INT TERM
code=$(printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
    curl -gsS --path-as-is --retry 5 --retry-connrefused --retry-max-time 60 --max-time 60 -H @- -o "$answer" -w '%{http_code}' \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/latest?receipt=only") || exit 1
if [ "$code" = 200 ] && grep -q '"perfgate.run.v1"' "$answer"; then
    cat "$answer" > baseline.json
elif [ "$code" = 404 ] && grep -q '"missing":"benchmark"' "$answer"; then
    echo "no baseline of $BENCHMARK in $PROJECT yet" >&2
    exit 3
else
    { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2
    exit 1
fi
