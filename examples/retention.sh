#!/bin/sh
# Delete the uploads of a project up to a time: retention.sh 2026-01-01T00:00:00Z. It needs jq, curl 7.76
# and the key of an admin. Of each benchmark the newest stays, and the newest with the git_ref KEEP_REF
# (refs/heads/main), so that a gate has something to compare with. A baseline that a gate names by its
# version or a tag may go. Prints what it deletes. Exit status: 0 if all is deleted.
set -euf # no name of a benchmark, as io[gzip], is a pattern
: "${PERFGATE_URL:?}" "${PERFGATE_KEY:?}" "${PROJECT:?}" "${1:?the time, as 2026-01-01T00:00:00Z}"
baselines=${PERFGATE_URL%/}/projects/$PROJECT/baselines
kept_ref=${KEEP_REF-refs/heads/main} # empty: of no ref

ask() {
    printf 'Authorization: Bearer %s\n' "$PERFGATE_KEY" |
        curl -q --fail-with-body -L --max-redirs 0 -gsS --path-as-is --max-time 60 -H @- "$@"
}

list() { # the names of records: benchmark/versions/version
    page=$(ask -G "$baselines" -d total=false "$@") || { echo "$page" >&2; exit 1; }
    # What a proxy says, or nothing, is not an empty list.
    [ "$(printf '%s\n' "$page" | jq -r '.baselines | type')" = array ] || { echo "no list: $page" >&2; exit 1; }
    printf '%s\n' "$page" | jq -r '.baselines[] | .benchmark + "/versions/" + .version'
}

delete() {
    answer=$(ask -X DELETE "$baselines/$1") || :
    case $answer in
    *'"deleted":true'*) printf '%s\n' "$answer" ;;
    *'"missing":"version"'*) ;; # somebody else was first
    *) echo "$1 is not deleted: $answer" >&2; exit 1 ;;
    esac
}

if [ "$kept_ref" ]; then
    of_ref=$(list -d limit=1 --data-urlencode "git_ref=$kept_ref") || exit 1
    [ "$of_ref" ] || { echo "nothing has the git_ref $kept_ref: set KEEP_REF, to nothing if you use none" >&2; exit 1; }
fi
kept=0
while :; do
    names=$(list --data-urlencode "until=$1" -d source=upload -d limit=1000 -d "offset=$kept") || exit 1
    [ "$names" ] || exit 0
    for name in $names; do
        benchmark="benchmark=${name%/versions/*}"
        newest=$(list --data-urlencode "$benchmark" -d limit=1) || exit 1
        of_ref=$newest
        [ -z "$kept_ref" ] || of_ref=$(list --data-urlencode "$benchmark" -d limit=1 --data-urlencode "git_ref=$kept_ref") || exit 1
        if [ "$name" = "$newest" ] || [ "$name" = "$of_ref" ]; then
            kept=$((kept + 1))
        else
            delete "$name"
        fi
    done
done
