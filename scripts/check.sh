#!/bin/sh
# What the project checks beside its tests. Each step says what it is; the first failure ends it.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
step() { printf '==> %s\n' "$1"; }

step 'lint'
$bin/ruff check .
step 'format'
$bin/ruff format --check --quiet .
step 'types'
$bin/mypy
step 'layers and doors'
$bin/lint-imports
step 'generated code is what proto/ says'
generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
PYTHON="$PWD/$bin/python" proto/generate.sh "$generated"
diff -r -x __pycache__ "$generated/tacit/wire/pb" src/tacit/wire/pb
step 'lock files hold hashes and no index address'
for lock in lock/*.txt; do
    if grep -nE 'https?://|--(extra-)?index-url|--find-links' "$lock"; then
        echo "Error: $lock names an address; make it again with lock/update.sh" >&2
        exit 1
    fi
done
step 'every threat that is held has its test'
$bin/python scripts/threats.py --check
echo 'all checks passed'
