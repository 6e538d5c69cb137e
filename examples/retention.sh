#!/bin/sh
# Delete the uploads of a project up to a time: retention.sh 2026-01-01T00:00:00Z. It needs jq, and the
# key of an admin. Of each benchmark the newest stays, and the newest with the git_ref refs/heads/main,
# so that a gate has something to compare with. A baseline that a gate names by its version or a tag
# may go. Prints what it deletes. Exit status: 0 if all is deleted.
set -euf # no name of a benchmark, as io[gzip], is a pattern
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${1:?the time, as 2026-01-01T00:00:00Z}"
baselines=${PERFGATE_URL%/}/projects/$PROJECT/baselines

ask() {
    printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
        curl --fail-with-body -L --max-redirs 0 -gsS --path-as-is --max-time 60 -H @- "$@"
}

list() { # the names of records: benchmark/versions/version
    page=$(ask -G "$baselines" -d total=false "$@") || { echo "$page" >&2; exit 1; }
    printf '%s\n' "$page" | jq -r '.baselines[] | .benchmark + "/versions/" + .version'
}

kept=0
while :; do
    names=$(list --data-urlencode "until=$1" -d source=upload -d limit=1000 -d "offset=$kept") || exit 1
    [ "$names" ] || exit 0
    for name in $names; do
        benchmark="benchmark=${name%/versions/*}"
        newest=$(list --data-urlencode "$benchmark" -d limit=1) || exit 1
        of_main=$(list --data-urlencode "$benchmark" -d limit=1 -d git_ref=refs/heads/main) || exit 1
        if [ "$name" = "$newest" ] || [ "$name" = "$of_main" ]; then
            kept=$((kept + 1))
        else
            ask -X DELETE "$baselines/$name" || exit 1
        fi
    done
done
