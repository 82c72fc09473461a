"""Where marbles run: namespaces, and what a simulated TEE needs in each of them."""

from collections import Counter
from dataclasses import dataclass

from tacit.errors import InstallError
from tacit.evidence.simulated.platform import render_platform
from tacit.kube.install import MADE_BY, OWNER, PLATFORM_SECRET, US, find_namespace, platform_secret, read_platform
from tacit.kube.objects import POD, SECRET, Cluster, labels_of

_TYPE_LABEL = "marblerun/marbletype"


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace with marbles, or with the simulated platform for them."""

    name: str
    marbles: int
    has_platform: bool


async def add_place(cluster: Cluster, name: str, *, owner: str) -> list[str]:
    """Prepare a namespace; lines about it. `owner` is the coordinator's. Raises: InstallError, ClusterError."""
    if await find_namespace(cluster, name) is None:
        raise InstallError(f"there is no namespace {name}; make it first: kubectl create namespace {name}")
    lines = [f"Namespace {name}: pods with the label {_TYPE_LABEL} are marbles there, as everywhere; no more is needed"]
    source = await cluster.get(SECRET, PLATFORM_SECRET, namespace=owner)
    if source is None or name == owner:
        return lines
    platform = render_platform(read_platform(source))
    value = platform_secret(name, platform, owner=owner)
    held = await cluster.get(SECRET, PLATFORM_SECRET, namespace=name)
    if held is None:
        await cluster.create(SECRET, value, namespace=name)
    elif labels_of(held).get(MADE_BY) != US:
        return [*lines, f"Its own Secret {PLATFORM_SECRET} stays as it is"]
    elif (other := labels_of(held).get(OWNER)) != owner:
        # Another platform in its place would leave what that coordinator and its marbles sealed without a key.
        whose = f"of the coordinator in {other}" if other else "of no coordinator that it names"
        return [*lines, f"Its Secret {PLATFORM_SECRET} is {whose}, not in {owner}, and stays as it is"]
    else:
        version = (held.get("metadata") or {}).get("resourceVersion")
        value["metadata"]["resourceVersion"] = version
        await cluster.replace(SECRET, value, namespace=name)
    return [*lines, f"SIMULATED: the platform is there too, as the Secret {PLATFORM_SECRET}"]


async def remove_place(cluster: Cluster, name: str, *, owner: str) -> list[str]:
    """Take back what `add_place` gave. Raises: ClusterError."""
    held = await cluster.get(SECRET, PLATFORM_SECRET, namespace=name)
    ours = held is not None and labels_of(held).get(MADE_BY) == US and labels_of(held).get(OWNER) == owner
    if ours and name != owner:
        await cluster.delete(SECRET, PLATFORM_SECRET, namespace=name)
        lines = [f"Secret {PLATFORM_SECRET} taken away from {name}"]
    else:
        lines = [f"Nothing of ours is in {name}"]
    return [*lines, f"Pods with the label {_TYPE_LABEL} stay marbles; take the label from those that are to be none"]


async def find_places(cluster: Cluster, *, owner: str) -> list[Place]:
    """Namespaces with marbles, or with the platform of this coordinator. Raises: ClusterError."""
    pods = await cluster.find(POD, labels=_TYPE_LABEL)
    marbles = Counter(str((pod.get("metadata") or {}).get("namespace")) for pod in pods)
    secrets = await cluster.find(SECRET, labels=f"{MADE_BY}={US},{OWNER}={owner}")
    platforms = {str((secret.get("metadata") or {}).get("namespace")) for secret in secrets}
    return [Place(name, marbles[name], name in platforms) for name in sorted({*marbles, *platforms})]
