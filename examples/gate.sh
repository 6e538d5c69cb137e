#!/bin/sh
# Compare run.json with its baseline: on a pull request. Prints the verdict as Markdown.
# Exit status: 0 pass or warn, 1 fail, 3 nothing to compare with, 2 anything else (wrong key, no server).
# Takes more options as they stand in a query string: ./gate.sh 'threshold=0.1&fail_on=warn'
set -u
(: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}") || exit 2

code=$(curl -gsS --retry 5 --retry-connrefused -o verdict.md -w '%{http_code}' \
    -H "Authorization: Bearer $PERFGATE_KEY" --data-binary @run.json \
    "$PERFGATE_URL/projects/$PROJECT/baselines/$BENCHMARK/compare?gate=true&format=markdown${1:+&$1}") || exit 2
read -r verdict < verdict.md
case "$code $verdict" in
"200 **pass**"* | "200 **warn**"*) cat verdict.md ;;
"422 **fail**"* | "422 **warn**"*) cat verdict.md; exit 1 ;;
"200 **skip**"*) cat verdict.md; exit 3 ;;
*) cat verdict.md >&2; exit 2 ;;
esac
