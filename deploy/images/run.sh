#!/bin/sh
# Run the coordinator, or a server, as a container on this host: what the original demo's run_tf_image.sh did.
# Usage: deploy/images/run.sh coordinator [PODMAN OPTION...]
#        deploy/images/run.sh server [PODMAN OPTION...]
# Both use the host's network: 4433 and 2001, 8500 and 8501. Variables (EDG_..., TACIT_..., OE_SIMULATION) of this shell go
# along; the coordinator's state, and the collateral that it fetches, stay in podman's volume tacit-coordinator-data, whatever
# folders the variables name. The encrypted model is taken from ./encrypted. Without a TEE, the simulated platform of $TACIT_PLATFORM (or of
# ~/.local/share/tacit/platform) comes as podman's secret tacit-platform. CONTAINERS names another program than podman, with
# options of its own; TACIT_IMAGE another image; TACIT_CONTAINER names the container.
set -eu
: "${CONTAINERS:=podman}"
what=${1:-}
[ $# = 0 ] || shift
fail() { echo "Error: $*" >&2; exit 1; }
version=0.1.0
case $what in
    coordinator) image=localhost/tacit-coordinator:$version ;;
    server) image=localhost/tacit-serve:$version ;;
    *) fail 'usage: deploy/images/run.sh coordinator|server [PODMAN OPTION...]' ;;
esac
image=${TACIT_IMAGE:-$image}
command -v "${CONTAINERS%% *}" >/dev/null 2>&1 || fail "no ${CONTAINERS%% *}; apt-get install podman, or name another program with CONTAINERS"

set -- --rm --name "${TACIT_CONTAINER:-tacit-$what}" --replace --network host --pull never \
    --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
    --tmpfs /run/tacit:rw,mode=1777 --tmpfs /tmp:rw,mode=1777 "$@"
# Values stay out of the list of processes.
for name in $(env | sed -n 's/^\(EDG_[A-Z0-9_]*\|TACIT_[A-Z0-9_]*\|OE_SIMULATION\)=.*/\1/p'); do
    case $name in
        TACIT_PLATFORM | TACIT_IMAGE | TACIT_CONTAINER | EDG_COORDINATOR_SEAL_DIR | TACIT_COLLATERAL_CACHE | EDG_MARBLE_UUID_FILE) ;;
        TACIT_COORDINATOR_PACKAGE | TACIT_COORDINATOR_CERTIFICATE | TACIT_COLLATERAL_BUNDLE | EDG_STARTUP_MANIFEST)
            eval "file=\$$name"
            [ -f "$file" ] || fail "$name is $file, and there is no such file"
            set -- "$@" --volume "$(realpath "$file"):/etc/$name:ro" --env "$name=/etc/$name" ;;
        *) set -- "$@" --env "$name" ;;
    esac
done
platform=${TACIT_PLATFORM:-${XDG_DATA_HOME:-$HOME/.local/share}/tacit/platform}
if [ -e /dev/sgx_enclave ] || [ -e /dev/tdx_guest ] || [ -e /dev/sev-guest ]; then
    for device in /dev/sgx_enclave /dev/sgx_provision /dev/tdx_guest /dev/sev-guest; do
        [ ! -e $device ] || set -- "$@" --device $device
    done
elif [ "${OE_SIMULATION:-}" != 1 ] && [ "${TACIT_UNATTESTED:-}" != 1 ]; then
    [ -f "$platform/platform.json" ] || fail "no TEE, and no simulated platform in $platform; make one with: tacit platform init"
    # shellcheck disable=SC2086  # a program and its options
    $CONTAINERS secret inspect tacit-platform >/dev/null 2>&1 && $CONTAINERS secret rm tacit-platform >/dev/null
    $CONTAINERS secret create tacit-platform "$platform/platform.json" >/dev/null || fail 'podman took no secret'
    set -- "$@" --secret tacit-platform,target=/run/tacit/platform/platform.json,uid=65532,gid=65532,mode=0400 \
        --env TACIT_PLATFORM=/run/tacit/platform
fi
if [ "$what" = coordinator ]; then
    set -- "$@" --volume tacit-coordinator-data:/coordinator/data --env EDG_COORDINATOR_SEAL_DIR=/coordinator/data
    # What was fetched lies beside the state: a folder of this host is not there inside, and is gone with the container.
    [ -z "${TACIT_COLLATERAL_CACHE:-}${TACIT_PCCS:-}${TACIT_KDS:-}" ] ||
        set -- "$@" --env TACIT_COLLATERAL_CACHE=/coordinator/data/collateral
else
    mkdir -p encrypted
    set -- "$@" --volume "$PWD/encrypted:/encrypted:ro" --volume "$PWD/encrypted:/run/tacit/encrypted:ro" \
        --env EDG_MARBLE_UUID_FILE=/run/tacit/uuid
fi
# shellcheck disable=SC2086
exec $CONTAINERS run "$@" "$image"
