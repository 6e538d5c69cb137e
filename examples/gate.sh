#!/bin/sh
# Compare run.json with its baseline: on a pull request. Prints the verdict as Markdown.
# Exit status: 0 pass or warn, 1 fail, 3 the benchmark has no baseline yet, 2 anything else: a wrong
# key, no server, no baseline that fits `against`, no metric that could be judged.
# Takes more options, one an argument: ./gate.sh threshold=0.1 fail_on=warn
set -u
(: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}") || exit 2
[ -s run.json ] || { echo "run.json is not there, or empty" >&2; exit 2; }

query='gate=true&format=markdown'
for option in "$@"; do
    case $option in
    ?*=*) ;;
    *) echo "no option of the form name=value: '$option'" >&2; exit 2 ;;
    esac
    # A branch may be called c++ or fix#12.
    value=$(printf %s "${option#*=}" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g')
    query="$query&${option%%=*}=$value"
done

answer=$(mktemp) && headers=$(mktemp) || exit 2
trap 'rm -f "$answer" "$headers"' EXIT
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
code=$(ask --data-binary @run.json -D "$headers" -o "$answer" \
    "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/compare?$query") || exit 2
read -r verdict < "$answer" || verdict=
# What was missing, if nothing could be compared: benchmark, selector or metric.
missing=$(tr -d '\r\t ' < "$headers" | tr A-Z a-z | sed -n 's/^perfgate-missing://p')
case "$code ${missing:-nothing} $verdict" in
"200 nothing **pass**"* | "200 nothing **warn**"*) status=0 ;;
"422 "*" **fail**"* | "422 "*" **warn**"*) status=1 ;;
"200 benchmark **skip**"*) status=3 ;;
"200 selector **skip**"* | "200 metric **skip**"* | "200 metric **warn**"*) status=2 ;;
*) { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2; exit 2 ;;
esac
cat "$answer" || exit 2
exit "$status"
