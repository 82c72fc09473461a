"""From a person's wish to a coordinator and an injector on a cluster.

(1) the cluster answers, and lets us do what is to be done;
(2) its nodes have the TEE that is asked for;
(3) the namespace is there;
(4) nothing else is installed there, and for a simulated TEE its platform is there, as a Secret;
(5) helm installs the chart: the same one, and nothing more, as `helm install` alone would;
(6) its parts come up, or one of them says why not.

Each step finds what an interrupted one left, and goes on from there.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tacit.errors import ClusterConflictError, ClusterRightError, InputError, InstallError, PlatformError
from tacit.evidence.simulated.platform import SimulatedPlatform, parse_platform, render_platform
from tacit.kube.hardware import choose_resource_key, describe_node, offers_resource, parse_resource_key
from tacit.kube.helm import CHART, RELEASE, Release
from tacit.kube.objects import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    EVENT,
    NAMESPACE,
    NETWORK_POLICY,
    NODE,
    POD,
    REPLICA_SET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    VOLUME_CLAIM,
    WEBHOOK,
    Cluster,
    Kind,
    Object,
    name_of,
)
from tacit.kube.readiness import Part, current_pods, describe_claim, describe_deployment

COORDINATOR = "marblerun-coordinator"
INJECTOR = "marble-injector"
CLAIM = "coordinator-pv-claim"
PLATFORM_SECRET = "tacit-platform"  # noqa: S105 -- a name
PLATFORM_KEY = "platform.json"
MADE_BY = "app.kubernetes.io/managed-by"
US = "tacit"
OWNER = "edgeless.systems/control-plane-ns"

_RIGHTS: tuple[tuple[str, Kind], ...] = (
    *(("create", kind) for kind in (SECRET, SERVICE, SERVICE_ACCOUNT, VOLUME_CLAIM, DEPLOYMENT, NETWORK_POLICY)),
)
_INJECTOR_RIGHTS: tuple[tuple[str, Kind], ...] = tuple(
    ("create", kind) for kind in (DISRUPTION_BUDGET, ROLE, ROLE_BINDING, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, WEBHOOK)
)
_T = TypeVar("_T")
_SETTLE = 1.0  # seconds between two looks
# What the coordinator takes; what it does not would be said by its log alone.
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")


class HelmLike(Protocol):
    """What is asked of helm."""

    async def release(self, name: str = RELEASE) -> Release | None:
        """What is installed under this name."""

    async def install(self, chart: Path, values: Mapping[str, Any], more: Sequence[str], name: str = RELEASE) -> None:
        """Install the chart."""

    async def uninstall(self, name: str = RELEASE) -> None:
        """Take it away, and wait for that."""


class Watcher(Protocol):
    """Who is told how it goes."""

    def step(self, text: str) -> None:
        """What was just done, or found."""

    def parts(self, parts: Sequence[Part]) -> None:
        """How far what was installed has come."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants installed. `platform` is that of the simulated TEE; `resource_key` empty: what the nodes offer."""

    namespace: str = "marblerun"
    domains: tuple[str, ...] = ()
    simulation: bool = False
    unattested: bool = False
    platform: bytes | None = field(default=None, repr=False)
    resource_key: str = ""
    injection: bool = True
    client_port: int = 4433
    mesh_port: int = 2001
    pccs: str = ""
    kds: str = ""
    more: tuple[str, ...] = ()
    timeout: float = 300.0
    wait: bool = True

    @property
    def pretends(self) -> bool:
        """Whether no real TEE is asked for."""
        return self.simulation or self.unattested


def make_values(wish: Wish, key: str) -> dict[str, Any]:
    """The values of the chart that say what is wished; `key` is the resource that stands for the TEE. Raises: InputError."""
    if wish.client_port == wish.mesh_port:
        raise InputError(
            f"the client API and the mesh API are both to have port {wish.mesh_port}; name another for one"
        )
    for domain in wish.domains:
        _check_domain(domain)
    coordinator: dict[str, Any] = {
        "hostname": ",".join(wish.domains),
        "clientServerPort": wish.client_port,
        "meshServerPort": wish.mesh_port,
    }
    values: dict[str, Any] = {
        "simulation": wish.simulation,
        "unattested": wish.unattested,
        "coordinator": coordinator,
        "marbleInjector": {"start": wish.injection, "resourceKey": key},
    }
    if not wish.pretends:
        wanted = parse_resource_key(key)
        # What stands in the chart for Intel's plugin goes where another one is used.
        unset: dict[str, Any] = dict.fromkeys(parse_resource_key("sgx.intel.com/epc").limits)
        coordinator["resources"] = {"limits": {**unset, **wanted.limits}}
        values["tolerations"] = [{"key": wanted.key, "operator": "Exists", "effect": "NoSchedule"}]
        places = {"pccsUrl": wish.pccs, "kdsUrl": wish.kds}
        if named := {key: place for key, place in places.items() if place}:
            values["dcap"] = named
    return values


def _check_domain(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise InputError(
                f'"{text}" is neither a name nor an address; expected such as coordinator.example.org or 10.0.0.1'
            ) from None


async def install(cluster: Cluster, helm: HelmLike, chart: Path, wish: Wish, watcher: Watcher) -> None:
    """Install, and see it come up.

    Raises:
        ClusterRightError: a right is missing; names all that are.
        InstallError: what is asked for cannot be had, or does not come up in time.
        ClusterError: what else the cluster refuses.
    """
    watcher.step(f"Kubernetes {await cluster.version()}")
    await check_rights(cluster, wish)
    key = wish.resource_key or choose_resource_key(await _nodes(cluster) or [])
    values = make_values(wish, key)
    if not wish.pretends:
        await check_hardware(cluster, key, watcher)
    await ensure_namespace(cluster, wish.namespace, watcher)
    await take_up(cluster, helm, wish.namespace, watcher)
    if wish.simulation:
        await ensure_platform(cluster, wish.namespace, wish.platform, watcher)
    await helm.install(chart, values, wish.more)
    watcher.step(f"Chart {chart.name} installed as the release {RELEASE}")
    if wish.wait:
        await wait_until_ready(cluster, wish, watcher)


async def check_rights(cluster: Cluster, wish: Wish) -> None:
    """All that will be needed, asked before anything is made. Raises: ClusterRightError."""
    wanted = [*_RIGHTS, *(_INJECTOR_RIGHTS if wish.injection else ())]
    if await find_namespace(cluster, wish.namespace) is None:
        wanted.insert(0, ("create", NAMESPACE))
    allowed = await asyncio.gather(*(cluster.may(verb, kind, namespace=wish.namespace) for verb, kind in wanted))
    missing = [f"{verb} {kind.plural}" for (verb, kind), ok in zip(wanted, allowed, strict=True) if not ok]
    if missing:
        raise ClusterRightError(
            f"you may not {', '.join(missing)} on this cluster (namespace {wish.namespace}); ask whoever runs it for these "
            "rights, or to install the chart for you"
        )


async def find_namespace(cluster: Cluster, name: str) -> Object | None:
    """A namespace, None where there is none; empty for whoever may not look, and may still be at home in it."""
    return await _if_allowed(cluster.get(NAMESPACE, name), {})


async def _if_allowed(asked: Awaitable[_T], otherwise: _T) -> _T:
    try:
        return await asked
    except ClusterRightError:
        return otherwise


async def _nodes(cluster: Cluster) -> list[Object] | None:
    return await _if_allowed(cluster.find(NODE), None)  # some may install and not look at nodes


async def check_hardware(cluster: Cluster, key: str, watcher: Watcher) -> None:
    """A node has what is asked for. Raises: InstallError."""
    name = parse_resource_key(key).key
    nodes = await _nodes(cluster)
    if not nodes:
        why = "you may not list nodes" if nodes is None else "the cluster has no node yet"
        watcher.step(f"Note: {why}, so whether one has the TEE is not known")
        return
    able = [name_of(node) for node in nodes if offers_resource(node, name)]
    if able:
        watcher.step(f"{name} on {', '.join(able)}")
        return
    described = [describe_node(node) for node in nodes]
    others = [f"{one.name} has {' and '.join(one.offers.values())}" for one in described if one.offers]
    missing = [f"{one.name}: {text}" for one in described for text in one.missing]
    found = "; ".join([*others, *missing]) or "no node has a TEE that it offers to pods"
    raise InstallError(
        f"no node offers {name} ({found}); install its device plugin, name another with --resource-key, or try it "
        "without a TEE: --simulation. `tacit precheck` shows more"
    )


async def ensure_namespace(cluster: Cluster, name: str, watcher: Watcher) -> None:
    """The namespace, made if it is not there. Raises: InstallError."""
    found = await find_namespace(cluster, name)
    if found is None:
        value = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {MADE_BY: US}}}
        try:
            await cluster.create(NAMESPACE, value)
            watcher.step(f"Namespace {name} made")
        except ClusterConflictError:
            watcher.step(f"Namespace {name} is there")
    elif (found.get("status") or {}).get("phase") == "Terminating":
        raise InstallError(f"the namespace {name} is just being deleted; try again when it is gone")
    else:
        watcher.step(f"Namespace {name} is there")


async def ensure_platform(cluster: Cluster, namespace: str, platform: bytes | None, watcher: Watcher) -> None:
    """The simulated platform, as the Secret that the chart mounts.

    One that is there stays, as what it sealed would be lost otherwise; the same one is brought up to date.
    Raises: InstallError, PlatformError.
    """
    found = await cluster.get(SECRET, PLATFORM_SECRET, namespace=namespace)
    if found is None and platform is None:
        raise InstallError(f"there is no Secret {PLATFORM_SECRET} in {namespace}, and no platform to make it of")
    if found is None and platform is not None:
        await cluster.create(SECRET, platform_secret(namespace, platform, owner=namespace), namespace=namespace)
        watcher.step(f"Secret {PLATFORM_SECRET} made (SIMULATED platform)")
        return
    watcher.step(f"Secret {PLATFORM_SECRET} is there (SIMULATED platform)")
    if found is None or platform is None:
        return
    held, ours = read_platform(found), parse_platform(platform, source="this machine's platform")
    if held.root != ours.root:
        watcher.step(
            "Note: it is another platform than this machine's, so `tacit trust` here does not know it: "
            f"kubectl -n {namespace} get secret {PLATFORM_SECRET} -o jsonpath='{{.data.platform\\.json}}' | base64 -d "
            ">platform.json, and tacit platform import platform.json --platform FOLDER"
        )
        return
    newer = render_platform(ours.with_parts_of(held))
    if newer != render_platform(held):
        value = platform_secret(namespace, newer, owner=namespace)
        value["metadata"]["resourceVersion"] = (found.get("metadata") or {}).get("resourceVersion")
        await cluster.replace(SECRET, value, namespace=namespace)
        watcher.step(f"Secret {PLATFORM_SECRET} brought up to date")


def read_platform(secret: Object) -> SimulatedPlatform:
    """The simulated platform of a Secret. Raises: InstallError."""
    place = (secret.get("metadata") or {}).get("namespace")
    try:
        raw = base64.b64decode((secret.get("data") or {})[PLATFORM_KEY], validate=True)
        return parse_platform(raw, source=f"the Secret {PLATFORM_SECRET}")
    except (KeyError, TypeError, binascii.Error, PlatformError) as exc:
        raise InstallError(
            f"the Secret {PLATFORM_SECRET} in {place} holds no platform under {PLATFORM_KEY}; delete it, and run "
            "`tacit install --simulation` again"
        ) from exc


def platform_secret(namespace: str, platform: bytes, *, owner: str) -> dict[str, Any]:
    """The Secret that holds a simulated platform, with its keys: whoever reads it can simulate it.

    `owner` is the namespace of the coordinator.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": PLATFORM_SECRET, "namespace": namespace, "labels": {MADE_BY: US, OWNER: owner}},
        "type": "Opaque",
        "data": {PLATFORM_KEY: base64.b64encode(platform).decode()},
    }


async def take_up(cluster: Cluster, helm: HelmLike, namespace: str, watcher: Watcher) -> None:
    """Make way for an install: nothing of another chart, and nothing that was interrupted. Raises: InstallError."""
    release = await helm.release()
    if release is None:
        return
    if not release.chart.startswith(f"{CHART}-"):
        raise InstallError(
            f"the namespace {namespace} holds {release.chart} as the release {RELEASE}; take it away with "
            "`tacit uninstall`, or name another namespace"
        )
    if release.is_pending:
        # Only the record of it goes. What was made stays, and helm takes it over.
        name = f"sh.helm.release.v1.{RELEASE}.v{release.revision}"
        await cluster.delete(SECRET, name, namespace=namespace)
        watcher.step("An interrupted install is taken up")


async def wait_until_ready(
    cluster: Cluster, wish: Wish, watcher: Watcher, *, clock: Callable[[], float] | None = None
) -> None:
    """See everything come up. Raises: InstallError, with what is in the way."""
    time = clock or asyncio.get_running_loop().time
    end = time() + wish.timeout
    while True:
        found = await look(cluster, wish.namespace, injection=wish.injection)
        # All is made by now. What is not there was switched off with a value of the chart's.
        found = [part for part in found if part.is_installed or part.name == COORDINATOR]
        watcher.parts(found)
        if all(part.is_ready for part in found):
            return
        lost = next((part for part in found if part.trouble is not None and part.trouble.lost), None)
        if lost is not None or time() >= end:
            raise InstallError(_why_not(found, lost, wish))
        await asyncio.sleep(_SETTLE)


def _why_not(parts: Sequence[Part], lost: Part | None, wish: Wish) -> str:
    part = lost or next(one for one in parts if not one.is_ready)
    trouble = part.trouble
    why = trouble.text if trouble else "nothing says why; see `kubectl describe` of its pods"
    late = "" if lost else f" after {wish.timeout:.0f} s"
    more = f"; see kubectl -n {wish.namespace} logs {trouble.pod} --previous" if trouble and trouble.pod else ""
    return (
        f"{part.kind} {part.name} is not ready{late} ({part.ready} of {part.wanted}): {why}{more}. "
        "Mend that, and run the same command again: it goes on from here"
    )


async def look(cluster: Cluster, namespace: str, *, injection: bool = True) -> list[Part]:
    """How far the parts are that one waits for. Raises: ClusterError."""
    names = [INJECTOR, COORDINATOR] if injection else [COORDINATOR]
    deployments = [await cluster.get(DEPLOYMENT, name, namespace=namespace) for name in names]
    # What says why something is not ready; some may see Deployments and nothing else.
    claim = await _if_allowed(cluster.get(VOLUME_CLAIM, CLAIM, namespace=namespace), None)
    pods, events, sets = [
        await _if_allowed(cluster.find(kind, namespace=namespace), []) for kind in (POD, EVENT, REPLICA_SET)
    ]
    found: list[Part] = [] if claim is None else [describe_claim(claim, events)]
    for name, deployment in zip(names, deployments, strict=True):
        if deployment is None:
            found.append(Part("Deployment", name, 0, 1, is_installed=False))
            continue
        found.append(describe_deployment(deployment, current_pods(deployment, sets, pods), events))
    return found
