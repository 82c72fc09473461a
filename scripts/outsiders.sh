#!/bin/sh
# Build programs that others wrote and that talk to our ports in the tests, with Go and its module proxy:
# h2spec, which knows the rules of HTTP/2, and a client on gRPC's own Go library. Where there are
# npm and mvn, gRPC's libraries for Node and for Java are put beside them. They stay in .cache/outsiders.
set -eu
cd "$(dirname "$0")/.."
out="$PWD/.cache/outsiders"
if ! command -v go >/dev/null 2>&1; then
    echo 'Error: the tests with outside programs need Go (the program "go"); install it and run this again' >&2
    exit 1
fi
mkdir -p "$out"
export GOFLAGS=-mod=mod GOBIN="$out"
if [ ! -x "$out/h2spec" ]; then
    go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
fi
if [ ! -x "$out/client" ] || [ tests/edge/go/main.go -nt "$out/client" ]; then
    (cd tests/edge/go && GOFLAGS=-mod=readonly go build -o "$out/client" .)
fi
if command -v npm >/dev/null 2>&1 && ! cmp -s tests/edge/node/package-lock.json "$out/node/package-lock.json"; then
    rm -rf "$out/node" "$out/node.part"
    mkdir "$out/node.part"
    cp tests/edge/node/package.json tests/edge/node/package-lock.json "$out/node.part"
    (cd "$out/node.part" && npm ci --ignore-scripts --no-audit --no-fund --silent >&2)
    mv "$out/node.part" "$out/node"
fi
if command -v mvn >/dev/null 2>&1 && ! cmp -s tests/edge/java/pom.xml "$out/java/pom.xml"; then
    rm -rf "$out/java" "$out/java.part"
    mkdir "$out/java.part"
    cp tests/edge/java/pom.xml "$out/java.part"
    (cd "$out/java.part" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars >&2)
    mv "$out/java.part" "$out/java"
fi
echo "$out"
