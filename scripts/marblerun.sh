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
if [ ! -d "$out/charts" ] || [ ! -x "$out/marblerun" ]; then
    source=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    rm -rf "$out/source"
    cp -r "$source" "$out/source"
    chmod -R u+w "$out/source"
    # In its own folder, with its own list of hashes. Without the library of its verifier, which the verbs about a cluster do not need.
    (cd "$out/source" && nice -n 10 go build -p "${TACIT_BUILD_JOBS:-2}" -trimpath -buildvcs=false -ldflags '-s -w' \
        -tags ego_mock_eclient -o "$out/marblerun.part" ./cli) >&2
    rm -rf "$out/charts"
    mv "$out/source/charts" "$out/charts"
    mv "$out/marblerun.part" "$out/marblerun"
    rm -rf "$out/source"
fi
echo "$out"
