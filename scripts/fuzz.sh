#!/bin/sh
# Fuzz every reader for SECONDS (10) each. The fuzzer comes from a lock of its own, into the tests' environment.
# Usage: scripts/fuzz.sh [SECONDS] [--seed N] [TARGET...]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-10}
[ $# -eq 0 ] || shift
stamp=.venv/.installed-fuzz
if [ "$(cat "$stamp" 2>/dev/null)" != "$(cksum < lock/fuzz.txt)" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r lock/fuzz.txt || {
        echo 'Error: atheris has wheels for Linux on x86-64 with glibc alone; fuzz there' >&2
        exit 1
    }
    cksum < lock/fuzz.txt > "$stamp"
fi
exec .venv/bin/python fuzz/run.py --seconds "$seconds" "$@"
