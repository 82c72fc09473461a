#!/bin/sh
# Run the tests with clients that others wrote and that install from PyPI, in an environment of its own (.venv-clients,
# about 600 MB, kept between runs). Each client runs in a process of its own: their message definitions clash. What our
# own client needs is there too, so that theirs can be tried over its channels.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv-clients/.installed
wanted=$(cat lock/clients.txt lock/clients-alone.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo '==> installing tritonclient, kserve and ovmsclient into .venv-clients (a few minutes the first time)'
    .venv/bin/python -m venv --clear .venv-clients
    .venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r lock/clients.txt
    # ovmsclient asks for an old protobuf, and works with the new one.
    .venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r lock/clients-alone.txt
    echo "$wanted" > "$stamp"
fi
if perf=$(scripts/perf_analyzer.sh); then
    export TACIT_PERF_ANALYZER="$perf"
elif [ -n "${TACIT_CI:-}" ]; then
    exit 1
fi
TACIT_CLIENTS_PYTHON="$PWD/.venv-clients/bin/python" .venv/bin/python -m pytest -m clients tests/interop "$@"
