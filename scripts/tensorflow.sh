#!/bin/sh
# Run the tests that need real TensorFlow, in an environment of its own (.venv-tensorflow, about 1.5 GB, kept between runs).
set -eu
cd "$(dirname "$0")/.."
if [ ! -f .venv-tensorflow/.installed ]; then
    echo '==> installing TensorFlow into .venv-tensorflow (a few minutes the first time)'
    .venv/bin/python -m venv .venv-tensorflow
    .venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r lock/tensorflow.txt
    .venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r lock/tensorflow-serving.txt
    touch .venv-tensorflow/.installed
fi
TACIT_TENSORFLOW_PYTHON="$PWD/.venv-tensorflow/bin/python" .venv/bin/python -m pytest -m tensorflow "$@"
