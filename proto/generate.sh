#!/bin/sh
# Write src/tacit/wire/pb from proto/. CI runs this and fails where the result differs from what is committed.
# Usage: proto/generate.sh [SOURCE_ROOT]   (default: src)
set -eu
cd "$(dirname "$0")"
out=${1:-../src}
python=${PYTHON:-../.venv/bin/python}
mkdir -p "$out/tacit/wire/pb"
"$python" -m grpc_tools.protoc -I. --python_out="$out" --pyi_out="$out" tacit/wire/pb/*.proto
# The generator's own guard lets its output run with its own version of protobuf and newer ones alone. Our client lives
# beside other libraries, which hold protobuf below 7 (tritonclient); `make clients` shows that what is left runs there.
for file in "$out"/tacit/wire/pb/*_pb2.py; do
    sed -i.orig -e '/^from google.protobuf import runtime_version /d' -e '/^_runtime_version\./,/^)/d' "$file"
    rm "$file.orig"
done
printf '"""Generated from proto/ by proto/generate.sh; do not edit."""\n' > "$out/tacit/wire/pb/__init__.py"
