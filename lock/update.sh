#!/bin/sh
# Recompute the lock files from pyproject.toml: hashes, every platform, no index address.
# A week's cool-down keeps a package that was hijacked yesterday out of today's lock.
# Needs uv on the PATH (pip install uv). Usage: lock/update.sh
set -eu
cd "$(dirname "$0")/.."
cutoff=${TACIT_LOCK_CUTOFF:-$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z)}
compile() {
    extra=$1 out=$2
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header --exclude-newer "$cutoff" pyproject.toml --extra "$extra" -o "$out"
    echo "wrote $out"
}
compile test lock/test.txt
# The demo's environment is a subset of the tests': the same versions, so that one .venv serves both.
uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --no-header --exclude-newer "$cutoff" -c lock/test.txt pyproject.toml --extra build --extra demo -o lock/demo.txt
echo "wrote lock/demo.txt"
# What each image holds beside its own rooms: the same versions again, without what only tests and other images need.
image() {
    name=$1
    shift
    # shellcheck disable=SC2086  # one option for each extra
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header --exclude-newer "$cutoff" -c lock/test.txt pyproject.toml $(printf -- '--extra %s ' "$@") -o "lock/image-$name.txt"
    echo "wrote lock/image-$name.txt"
}
image coordinator coordinator
image server premain serve
image premain premain
image injector injector
image cli kube
# TensorFlow alone, for the tests that read our saved models with it; it shares nothing with the rest.
echo 'tensorflow-cpu>=2.21,<3' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "$cutoff" - -o lock/tensorflow.txt
echo "wrote lock/tensorflow.txt"
# The fuzzer, beside the tests: it needs nothing of theirs, and only Linux on x86-64 has a wheel of it. 3.1 has none for Python 3.11.
echo 'atheris>=3.0,<3.1' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "$cutoff" - -o lock/fuzz.txt
echo "wrote lock/fuzz.txt"
# Clients that others wrote, for the tests that let them talk to our server; they share nothing with the rest.
printf 'tritonclient[grpc,http]>=2.73,<3\nkserve>=0.21,<0.22\n' | uv pip compile --quiet --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "$cutoff" - -o lock/clients.txt
echo "wrote lock/clients.txt"
# The last ovmsclient asks for a protobuf of its time, and works with today's: it comes without its needs.
echo 'ovmsclient>=2023.1' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-deps \
    --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "$cutoff" - -o lock/clients-alone.txt
echo "wrote lock/clients-alone.txt"
# TensorFlow Serving's stubs ask for a package that is called tensorflow; tensorflow-cpu is the same, so they come without their needs.
echo 'tensorflow-serving-api>=2.21,<3' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-deps \
    --no-emit-index-url --no-emit-find-links --no-header --exclude-newer "$cutoff" - -o lock/tensorflow-serving.txt
echo "wrote lock/tensorflow-serving.txt"
