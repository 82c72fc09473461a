#!/bin/sh
# Write src/tacit/wire/pb from proto/. CI runs this and fails where the result differs from what is committed.
# Usage: proto/generate.sh [SOURCE_ROOT]   (default: src)
set -eu
cd "$(dirname "$0")"
out=${1:-../src}
python=${PYTHON:-../.venv/bin/python}
mkdir -p "$out/tacit/wire/pb"
"$python" -m grpc_tools.protoc -I. --python_out="$out" --pyi_out="$out" tacit/wire/pb/*.proto
printf '"""Generated from proto/ by proto/generate.sh; do not edit."""\n' > "$out/tacit/wire/pb/__init__.py"
