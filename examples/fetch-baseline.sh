#!/bin/sh
# Fetch the baseline to compare with into baseline.json: on a pull request.
# Exit status 3: there is none yet. Nothing to compare with must not look like a pass.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}"

status=$(curl -gsS --retry 5 --retry-connrefused -o baseline.json -w '%{http_code}' \
    -H "Authorization: Bearer $PERFGATE_KEY" \
    "$PERFGATE_URL/projects/$PROJECT/baselines/$BENCHMARK/latest?receipt=only")
case $status in
200) exit 0 ;;
404) echo "no baseline of $BENCHMARK in $PROJECT yet" >&2; exit 3 ;;
*) cat baseline.json >&2; exit 1 ;;
esac
