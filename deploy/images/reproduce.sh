#!/bin/sh
# Prove that the same inputs give the same images: build twice, in folders that know nothing of each other, and compare.
# Usage: deploy/images/reproduce.sh [NAME...]      BASE=1 also makes the base archive twice
set -eu
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tacit-images
mkdir -p "$cache"
work=$(mktemp -d "$cache/reproduce-XXXXXX")
# Overlay mounts are gone by now, but layers belong to whoever built them.
trap 'rm -rf "$work"' EXIT
for run in first second; do
    mkdir "$work/$run"
    # The archive of Debian's packages is an input; so are the wheels, which the lock file names by their hashes.
    [ -n "${BASE:-}" ] || [ $run = first ] || set -- --base "$(echo "$work"/first/base-*)" "$@"
    .venv/bin/python deploy/images/build.py --cache "$work/$run" "$@" > "$work/$run.txt"
    grep ' sha256:' "$work/$run.txt" > "$work/$run.digests"
done
if ! diff "$work/first.digests" "$work/second.digests"; then
    echo 'Error: two builds of the same inputs differ' >&2
    exit 1
fi
cat "$work/first.digests"
[ -z "${BASE:-}" ] || sha256sum "$work"/*/base-*/base.tar | cut -d ' ' -f 1 | uniq | { read -r first && ! read -r other && echo "base.tar $first"; }
echo 'the same, twice'
