#!/bin/sh
# Compare run.json with its baseline: on a pull request. Prints the verdict as Markdown.
# Exit status: 0 pass or warn, 1 fail, 3 nothing to compare with, 2 anything else (wrong key, no server).
# Takes more options as they stand in a query string: ./gate.sh 'threshold=0.1&fail_on=warn'
set -u
(: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}") || exit 2
[ -s run.json ] || { echo "run.json is not there, or empty" >&2; exit 2; }

answer=$(mktemp) || exit 2
trap 'rm -f "$answer"' EXIT
trap 'exit 2' INT TERM
code=$(printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
    curl -gsS --path-as-is --retry 5 --retry-connrefused --retry-max-time 60 --max-time 60 -H @- --data-binary @run.json -o "$answer" -w '%{http_code}' \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/compare?gate=true&format=markdown${1:+&$1}") || exit 2
read -r verdict < "$answer" || verdict=
case "$code $verdict" in
"200 **pass**"* | "200 **warn**"*) status=0 ;;
"422 **fail**"* | "422 **warn**"*) status=1 ;;
"200 **skip**"*) status=3 ;;
*) { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2; exit 2 ;;
esac
cat "$answer" || exit 2
exit "$status"
