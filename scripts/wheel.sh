#!/bin/sh
# Build the wheel, and install it with the client extra alone into a fresh environment: no engine and no server may come along.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m build --wheel --no-isolation --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
python3=.venv/bin/python
"$python3" -m venv "$work/venv"
# The lock's versions, so that this is the same software that the tests ran.
sed -E 's/ \\$//; /^ /d' lock/test.txt > "$work/constraints.txt"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$work/constraints.txt" "$(ls "$work"/dist/*.whl)[client]"
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata as metadata

import tacit

tacit.connect  # the client's door opens
brought = {dist.metadata["Name"].lower() for dist in metadata.distributions()}
unwanted = brought & {"openvino", "onnxruntime", "tensorflow", "uvicorn", "grpclib", "typer", "scikit-learn"}
assert not unwanted, f"tacit[client] brought {sorted(unwanted)}"
print(f"wheel: tacit {metadata.version('tacit')} with {len(brought)} packages, no engine and no server")
PYTHON
