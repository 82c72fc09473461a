#!/bin/sh
# The tests on a cluster: the one that KUBECONFIG names, or two nodes that are started here and stopped again.
# A cluster of your own needs our images under the names that scripts/cluster.sh gives them, and helm and kubectl in PATH.
# Usage: scripts/cluster-tests.sh [ARGUMENTS OF PYTEST]        KEEP=1 leaves the nodes running
set -eu
cd "$(dirname "$0")/.."
if [ -z "${KUBECONFIG:-}" ]; then
    lines=$(scripts/cluster.sh start)
    eval "$lines"
    [ -n "${KEEP:-}" ] || trap 'scripts/cluster.sh stop' EXIT
fi
.venv/bin/python -m pytest -m cluster "$@"
