#!/bin/sh
# Make .venv in the project's root from a lock file, with plain venv and plain pip.
# Usage: scripts/environment.sh demo|test        PYTHON=python3.12 scripts/environment.sh test
# A stamp keeps the second run short: it names the lock file that was installed, by hash.
set -eu
cd "$(dirname "$0")/.."
kind=$1
lock=lock/$kind.txt

say() { printf '%s\n' "$*"; }
fail() { printf 'Error: %s\n' "$*" >&2; exit 1; }

[ -f "$lock" ] || fail "no lock file $lock; use demo or test"

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null 2>&1 || fail "PYTHON=$PYTHON is not a program on this machine"
        candidates=$PYTHON
    else
        candidates="python3 python3.13 python3.12 python3.11 python"
    fi
    for candidate in $candidates; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and none of these is one: $candidates. Install it, or name it: PYTHON=/path/to/python3.11 make ..."
}

digest() { cat "$lock" pyproject.toml | cksum | tr -d ' '; }
stamp=.venv/.installed-$kind
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(digest)" ] && [ -x .venv/bin/python ]; then
    exit 0
fi

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$python has no ensurepip, so it cannot make an environment. On Debian and Ubuntu: apt-get install python3-venv"
    say "==> making .venv with $("$python" --version)"
    "$python" -m venv .venv || fail "could not make .venv; is the disk full, or the folder read-only?"
fi
say "==> installing the packages of $lock into .venv (hashes are checked; about a minute the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" ||
    fail "pip could not install $lock; its own message stands above. A package index must be reachable."
say "==> installing tacit itself: tacit, tacit-coordinator, tacit-premain, tacit-serve in .venv/bin"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ||
    fail "pip could not install tacit itself; its own message stands above."
digest > "$stamp"
