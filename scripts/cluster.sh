#!/bin/sh
# Get what the tests on a cluster need, and start a cluster: system packages, Kubernetes itself and Helm (built from the Go
# module proxy, once), and our images. All of it is kept below the user's cache folder.
# Usage: scripts/cluster.sh build           get and build everything
#        scripts/cluster.sh start           build, start two nodes, load the images; prints lines for eval
#        scripts/cluster.sh stop            stop the cluster
# KUBE_TESTBED_DIR names the cluster's folder.
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tacit-cluster
dir=${KUBE_TESTBED_DIR:-$cache/testbed}
bin=$cache/bin
packages='containerd runc iproute2 iptables conntrack containernetworking-plugins buildah podman mmdebstrap'
say() { echo "==> $*" >&2; }
fail() { echo "Error: $*" >&2; exit 1; }

system() {
    missing=
    for program in containerd runc ip iptables conntrack buildah podman mmdebstrap; do
        command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
    done
    [ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        fail "a cluster needs$missing; as root: apt-get install --no-install-recommends $packages"
    fi
    say "installing:$missing"
    # shellcheck disable=SC2086  # one word for each package
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >&2
}

# helm NAME MODULE
helm() {
    [ -x "$bin/$1" ] && return 0
    say "building $1 (minutes, once)"
    GOBIN=$cache/go-$1 CGO_ENABLED=0 nice -n 10 go install -p "${TACIT_BUILD_JOBS:-2}" -trimpath -ldflags '-s -w' "$2" >&2 ||
        fail "$1 could not be built; is the Go module proxy in reach?"
    mkdir -p "$bin"
    mv "$cache/go-$1/helm" "$bin/$1"
}

build() {
    [ "$(id -u)" = 0 ] || fail 'nodes and images need root (namespaces, mounts); run this as root, or give a cluster of your own by KUBECONFIG'
    command -v go >/dev/null 2>&1 || fail 'Kubernetes and Helm are built with Go (1.25 or newer), and there is no go; install it and run this again'
    system
    scripts/kube-testbed build >&2
    helm helm helm.sh/helm/v4/cmd/helm@v4.3.1
    helm helm3 helm.sh/helm/v3/cmd/helm@v3.22.0
    say 'building the images (what is there already is kept)'
    .venv/bin/python deploy/images/build.py >&2
}

start() {
    build
    say "starting two nodes in $dir"
    mkdir -p "$dir"
    scripts/kube-testbed start --dir "$dir" --nodes 2 >&2
    images=${XDG_CACHE_HOME:-$HOME/.cache}/tacit-images/out
    loaded=$dir/loaded
    if ! cmp -s "$images/digests.json" "$loaded"; then
        say 'loading the images into the nodes'
        scripts/kube-testbed load --dir "$dir" "$images/images.tar" >&2
        cp "$images/digests.json" "$loaded"
    fi
    scripts/kube-testbed env --dir "$dir"
    echo "export PATH=$bin:\$PATH"
    echo "export KUBE_TESTBED_DIR=$dir TACIT_IMAGES=$images"
}

case ${1:-} in
    build) build ;;
    start) start ;;
    stop) scripts/kube-testbed stop --dir "$dir" ;;
    *) fail 'usage: scripts/cluster.sh build|start|stop' ;;
esac
