#!/bin/sh
# Fetch the baseline to compare with into baseline.json: on a pull request.
# Exit status 3: there is none yet. Nothing to compare with must not look like a pass.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}"

rm -f answer.json
status=$(printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
    curl -gsS --retry 5 --retry-connrefused -H @- -o answer.json -w '%{http_code}' \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/latest?receipt=only") || exit 1
if [ "$status" = 200 ]; then
    mv answer.json baseline.json
elif [ "$status" = 404 ] && grep -q '"missing":"benchmark"' answer.json; then
    echo "no baseline of $BENCHMARK in $PROJECT yet" >&2
    exit 3
else
    echo "HTTP $status from $PERFGATE_URL:" >&2
    [ ! -f answer.json ] || cat answer.json >&2
    exit 1
fi
