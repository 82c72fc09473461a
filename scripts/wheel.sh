#!/bin/sh
# Build the wheel, and install it once for each program into a fresh environment with that program's extra alone:
# each must start, and bring nothing that it does not need.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m build --wheel --no-isolation --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
# The lock's versions, so that this is the same software that the tests ran.
sed -E 's/ \\$//; /^ /d' lock/test.txt > "$work/constraints.txt"

try() {
    extra=$1 command=$2 unwanted=$3
    .venv/bin/python -m venv "$work/$extra"
    "$work/$extra/bin/python" -m pip install --quiet --disable-pip-version-check -c "$work/constraints.txt" "$wheel[$extra]"
    (cd "$work" && "$work/$extra/bin/python" -c "$command" >/dev/null)
    "$work/$extra/bin/python" - "$extra" "$unwanted" <<'PYTHON'
import importlib.metadata as metadata
import sys

extra, unwanted = sys.argv[1], set(sys.argv[2].split())
brought = {dist.metadata["Name"].lower() for dist in metadata.distributions()}
if brought & unwanted:
    sys.exit(f"Error: tacit[{extra}] brought {sorted(brought & unwanted)}, which it does not need")
print(f"tacit[{extra}] {metadata.version('tacit')}: {len(brought)} packages")
PYTHON
}

heavy='openvino onnxruntime tensorflow scikit-learn'
# The client needs pyOpenSSL: Python's own ssl does not give the exporter that evidence is bound to.
servers='httptools grpclib'
try client 'import tacit; tacit.connect' "$heavy $servers httpx typer rich"
try cli 'from tacit.programs.tacit import main; import tacit.cli.app' "$heavy $servers"
try coordinator 'import tacit.programs.coordinator' "$heavy grpcio typer rich numpy"
try kube 'from tacit.kube.cluster import KubernetesCluster; import tacit.kube.helm as h; h.chart_folder("tacit")' "$heavy $servers"
try injector 'import tacit.programs.injector, tacit.kube.cluster' "$heavy grpcio typer rich numpy dcap-qvl"
try premain 'import tacit.programs.premain' "$heavy httptools grpcio httpx typer rich numpy"
try serve 'import tacit.programs.serve, tacit.programs.model_server.server, tacit.serving.engines.openvino' 'scikit-learn tensorflow onnxruntime typer rich grpclib dcap-qvl'
