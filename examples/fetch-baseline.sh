#!/bin/sh
# Fetch the baseline to compare with into baseline.json: on a pull request.
# Exit status 3: there is none yet. Nothing to compare with must not look like a pass.
set -eu
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${BENCHMARK:?}"

rm -f baseline.json # an older one is not to be compared with
answer=$(mktemp)
trap 'rm -f "$answer" baseline.json.$$' EXIT
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
code=$(ask -o "$answer" "${PERFGATE_URL%/}/projects/$PROJECT/baselines/$BENCHMARK/latest?receipt=only") || exit 1
# Whole, it ends with a brace and a line's end.
if [ "$code" = 200 ] && grep -q '"perfgate.run.v1"' "$answer" && [ "$(tail -c 2 "$answer")" = '}' ]; then
    cat "$answer" > baseline.json.$$
    mv baseline.json.$$ baseline.json
elif [ "$code" = 404 ] && grep -q '"missing":"benchmark"' "$answer"; then
    echo "no baseline of $BENCHMARK in $PROJECT yet" >&2
    exit 3
else
    { echo "HTTP $code from $PERFGATE_URL:"; cat "$answer"; } >&2
    exit 1
fi
