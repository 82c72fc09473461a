"""The way to a coordinator through a cluster (`--kube`), and the address that it has there."""

from typing import TYPE_CHECKING

import typer

from tacit.cli.trust.flags import current_context, current_flags
from tacit.client.address import COORDINATOR_PORT, Address
from tacit.client.channel import through
from tacit.errors import InstallError, UsageError

if TYPE_CHECKING:
    from tacit.kube.cluster import KubernetesCluster

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


def service_host(namespace: str, port: int = COORDINATOR_PORT) -> str:
    """The coordinator of a namespace, as the cluster names it."""
    return f"{_SERVICE}.{namespace}:{port}"


def open_way(address: Address) -> None:
    """With `--kube`, lead connections to this address through the cluster until the command ends.

    Raises: ClusterError, UnreachableError.
    """
    flags = current_flags()
    if not flags.kube:
        return
    from tacit.kube.forward import forwarded, parse_target

    target = parse_target(address.host, address.port, namespace=flags.namespace)
    context = current_context()
    local = context.with_resource(forwarded(open_cluster, target))
    context.with_resource(through(address, Address(_LOOPBACK, local)))


def open_cluster() -> "KubernetesCluster":
    """The cluster of the kubeconfig, to be used as an asynchronous context manager. Raises: InstallError."""
    try:
        from tacit.kube.cluster import KubernetesCluster
    except ImportError as exc:
        raise InstallError(
            "this installation of tacit has no client for Kubernetes (kr8s); get it with: pip install 'tacit[kube]'"
        ) from exc
    return KubernetesCluster()
