#!/bin/sh
# Get MarbleRun's own command line and chart, for the tests that drive ours with them: built with Go from its module proxy
# (minutes, once; it is not part of this project, and its licence is its own). Prints the folder: marblerun and charts/.
set -eu
cd "$(dirname "$0")/.."
module=github.com/edgelesssys/marblerun version=v1.9.1
out=${XDG_CACHE_HOME:-$HOME/.cache}/tacit-cluster/marblerun-$version
if ! command -v go >/dev/null 2>&1; then
    echo 'Error: the tests with MarbleRun need Go (the program "go"); install it and run this again' >&2
    exit 1
fi
mkdir -p "$out"
if [ ! -d "$out/charts" ]; then
    source=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    rm -rf "$out/charts.part"
    cp -r "$source/charts" "$out/charts.part"
    chmod -R u+w "$out/charts.part"
    mv "$out/charts.part" "$out/charts"
fi
if [ ! -x "$out/marblerun" ]; then
    # Without the library of its verifier, which the verbs about a cluster do not need.
    GOBIN=$out/bin nice -n 10 go install -p "${TACIT_BUILD_JOBS:-2}" -trimpath -ldflags '-s -w' -tags ego_mock_eclient "$module/cli@$version" >&2
    mv "$out/bin/cli" "$out/marblerun"
fi
echo "$out"
