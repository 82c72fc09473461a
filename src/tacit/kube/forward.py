"""A way from this machine to the coordinator, through the cluster's own API: for whoever may reach that and nothing else."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass

from tacit.errors import ClusterError, InstallError, UnreachableError
from tacit.kube.objects import POD, SERVICE, Cluster, Object

Open = Callable[[], AbstractAsyncContextManager[Cluster]]
_START = 30.0  # seconds until the way is there


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a service."""

    service: str
    namespace: str
    port: int


def parse_target(host: str, port: int, *, namespace: str) -> Target:
    """The service that a name of the cluster's DNS means: NAME, NAME.NAMESPACE or longer.

    Without a namespace it is that of the coordinator.
    """
    name, _, rest = host.partition(".")
    return Target(name, rest.partition(".")[0] or namespace, port)


async def find_pod(cluster: Cluster, target: Target) -> tuple[Object, int]:
    """A pod that answers for a service, and its own port. Raises: InstallError, ClusterError."""
    where = f"the service {target.service} in the namespace {target.namespace}"
    service = await cluster.get(SERVICE, target.service, namespace=target.namespace)
    if service is None:
        raise InstallError(f"there is no {where[4:]}; name the right namespace, or see `tacit check`")
    spec = service.get("spec") or {}
    labels = ",".join(f"{key}={value}" for key, value in (spec.get("selector") or {}).items())
    pods = await cluster.find(POD, namespace=target.namespace, labels=labels) if labels else []
    ready = [pod for pod in pods if _is_ready(pod)]
    if not ready:
        raise InstallError(f"no pod of {where} is ready ({len(pods)} are there); see `tacit check`")
    return ready[0], _pod_port(ready[0], spec, target)


def _pod_port(pod: Object, spec: Object, target: Target) -> int:
    ports = spec.get("ports") or []
    found = next((port for port in ports if port.get("port") == target.port), None)
    if found is None:
        offered = ", ".join(str(port.get("port")) for port in ports)
        raise InstallError(f"the service {target.service} has no port {target.port}; it has {offered}")
    inner = found.get("targetPort", target.port)
    if isinstance(inner, int):
        return inner
    containers = (pod.get("spec") or {}).get("containers") or []
    named = (port for container in containers for port in container.get("ports") or [])
    return next((int(port["containerPort"]) for port in named if port.get("name") == inner), target.port)


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    leaving = (pod.get("metadata") or {}).get("deletionTimestamp") is not None
    return not leaving and any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


@contextmanager
def forwarded(open_cluster: Open, target: Target) -> Iterator[int]:
    """A port of this machine's loopback that leads to a service, for the length of the block.

    It is kept by a thread of its own, so that whoever talks through it may wait for answers.
    Raises: ClusterError, UnreachableError.
    """
    way = _Way(open_cluster, target)
    way.start()
    try:
        yield way.port()
    finally:
        way.end()


class _Way:
    def __init__(self, open_cluster: Open, target: Target) -> None:
        self._thread = threading.Thread(target=self._run, name="port-forward", daemon=True)
        self._open, self._target = open_cluster, target
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._there = threading.Event()
        self._port = 0
        self._error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._keep())
        except Exception as exc:  # it is whoever waits for the port that is to hear of it
            self._error = exc
        finally:
            # Closed first: whoever waits is to find a loop that it can stop, or one that has ended, and none in between.
            self._loop.close()
            self._there.set()

    async def _keep(self) -> None:
        async with self._open() as cluster:
            pod, port = await find_pod(cluster, self._target)
            async with cluster.forward(pod, port) as local:
                self._port = local
                self._there.set()
                await self._stop.wait()

    def port(self) -> int:
        if not self._there.wait(_START):
            raise UnreachableError(f"no way through the cluster to {self._target.service} within {_START:.0f} s")
        if self._error is not None:
            raise (
                self._error
                if isinstance(self._error, ClusterError)
                else UnreachableError(
                    f"no way through the cluster to {self._target.service}: {type(self._error).__name__}"
                )
            )
        return self._port

    def end(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
