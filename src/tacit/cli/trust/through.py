"""The way to a coordinator through a cluster (`--kube`), and the address that it has there."""

import typer

from tacit.cli.trust.flags import current_context, current_flags
from tacit.client.address import COORDINATOR_PORT, Address
from tacit.client.channel import through
from tacit.errors import UsageError

_SERVICE = "coordinator-client-api"
_LOOPBACK = "127.0.0.1"


def named_host(context: typer.Context, host: str) -> str:
    """The coordinator that a command names; with `--kube` it need not. Raises: UsageError."""
    flags = current_flags()
    if host or context.resilient_parsing:
        return host
    if not flags.kube:
        raise UsageError(f"Missing argument 'HOST:PORT'. See: {context.command_path} --help")
    return service_host(flags.namespace)


def service_host(namespace: str) -> str:
    """The coordinator of a namespace, as the cluster names it."""
    return f"{_SERVICE}.{namespace}:{COORDINATOR_PORT}"


def open_way(address: Address) -> None:
    """With `--kube`, lead connections to this address through the cluster until the command ends.

    Raises: ClusterError, UnreachableError.
    """
    flags = current_flags()
    if not flags.kube:
        return
    from tacit.kube.cluster import KubernetesCluster
    from tacit.kube.forward import forwarded, parse_target

    target = parse_target(address.host, address.port, namespace=flags.namespace)
    context = current_context()
    local = context.with_resource(forwarded(KubernetesCluster, target))
    context.with_resource(through(address, Address(_LOOPBACK, local)))
