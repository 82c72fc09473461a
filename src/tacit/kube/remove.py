"""From a cluster with a coordinator to one without: the release, what was made beside it, and a look at what is left."""

import asyncio
from collections.abc import Sequence

from tacit.errors import ClusterRightError, InstallError
from tacit.kube.helm import RELEASE
from tacit.kube.install import MADE_BY, OWNER, PLATFORM_SECRET, US, HelmLike, Watcher, find_namespace
from tacit.kube.objects import (
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    CONFIG_MAP,
    DAEMON_SET,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    NAMESPACE,
    NETWORK_POLICY,
    POD,
    REPLICA_SET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    SIGNING_REQUEST,
    STATEFUL_SET,
    VOLUME_CLAIM,
    WEBHOOK,
    Cluster,
    Kind,
    labels_of,
    name_of,
)

# Of MarbleRun's own command line, where that one installed.
_ITS_SECRET = "marble-injector-webhook-certs"  # noqa: S105 -- a name
_KINDS: Sequence[Kind] = (
    *(DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, POD, SERVICE, VOLUME_CLAIM, SECRET, CONFIG_MAP),
    *(SERVICE_ACCOUNT, ROLE, ROLE_BINDING, DISRUPTION_BUDGET, NETWORK_POLICY),
)
# What every namespace has.
_NATURAL = {(CONFIG_MAP.name, "kube-root-ca.crt"), (SERVICE_ACCOUNT.name, "default")}
_PATIENCE = 60  # seconds for what goes by itself


async def remove(cluster: Cluster, helm: HelmLike, namespace: str, watcher: Watcher) -> None:
    """Take everything away that was installed in this namespace, and for it elsewhere.

    Raises:
        InstallError: nothing is installed there, or something does not go.
        ClusterError: what else the cluster refuses.
    """
    found = await find_namespace(cluster, namespace)
    release = None if found is None else await helm.release()
    left = [] if found is None else await _ours(cluster, namespace)
    made = found is not None and labels_of(found).get(MADE_BY) == US
    if release is None and not left and not made:
        raise InstallError(f"nothing is installed in the namespace {namespace}; name the right one with --namespace")
    if release is not None:
        await helm.uninstall()
        watcher.step(f"Release {RELEASE} ({release.chart}) taken away, with the coordinator's sealed state")
    await _delete(cluster, SECRET, _ITS_SECRET, namespace, watcher)
    await _delete(cluster, SIGNING_REQUEST, f"marble-injector.{namespace}", "", watcher)
    for kind in (WEBHOOK, CLUSTER_ROLE, CLUSTER_ROLE_BINDING):
        await _delete(cluster, kind, f"marble-injector-{namespace}", "", watcher)
    for place in await _with_platform(cluster, namespace):
        await _delete(cluster, SECRET, PLATFORM_SECRET, place, watcher)
    await _settle(cluster, namespace, watcher)
    if made:
        await _delete_namespace(cluster, namespace, watcher)


async def _ours(cluster: Cluster, namespace: str) -> list[str]:
    """What an interrupted install or uninstall left, where helm knows nothing of it."""
    found = [PLATFORM_SECRET] if await cluster.get(SECRET, PLATFORM_SECRET, namespace=namespace) else []
    try:
        webhook = await cluster.get(WEBHOOK, f"marble-injector-{namespace}")
    except ClusterRightError:
        webhook = None
    return [*found, *([] if webhook is None else [name_of(webhook)])]


async def _with_platform(cluster: Cluster, namespace: str) -> list[str]:
    """Namespaces that have the simulated platform of this coordinator; its own first."""
    try:
        secrets = await cluster.find(SECRET, labels=f"{MADE_BY}={US},{OWNER}={namespace}")
    except ClusterRightError:
        secrets = []
    held = [str((one.get("metadata") or {}).get("namespace")) for one in secrets if name_of(one) == PLATFORM_SECRET]
    return list(dict.fromkeys([namespace, *held]))


async def _delete(cluster: Cluster, kind: Kind, name: str, namespace: str, watcher: Watcher) -> None:
    try:
        gone = await cluster.delete(kind, name, namespace=namespace)
    except ClusterRightError:
        if kind.namespaced:
            raise
        return  # who may not touch what is the whole cluster's has made none of it
    if gone:
        watcher.step(f"{kind.name} {name} taken away" + (f" from {namespace}" if namespace else ""))


async def _settle(cluster: Cluster, namespace: str, watcher: Watcher) -> None:
    """Wait until nothing that was installed is left. Raises: InstallError."""
    for _ in range(_PATIENCE):
        left = await _left(cluster, namespace, labels="app.kubernetes.io/part-of=marblerun")
        if not left:
            watcher.step("Nothing is left of it")
            return
        await asyncio.sleep(1)
    raise InstallError(f"some of it does not go from {namespace}: {', '.join(left)}; see why with kubectl describe")


async def _left(cluster: Cluster, namespace: str, *, labels: str = "") -> list[str]:
    found: list[str] = []
    for kind in _KINDS:
        try:
            values = await cluster.find(kind, namespace=namespace, labels=labels)
        except ClusterRightError:
            continue
        for value in values:
            if (kind.name, name_of(value)) not in _NATURAL:
                found.append(f"{kind.name} {name_of(value)}")
    return found


async def _delete_namespace(cluster: Cluster, namespace: str, watcher: Watcher) -> None:
    """The namespace that we made, if nobody else lives in it."""
    others = await _left(cluster, namespace)
    if others:
        watcher.step(f"Namespace {namespace} stays: it holds {', '.join(others[:5])}")
        return
    await cluster.delete(NAMESPACE, namespace)
    for _ in range(_PATIENCE):
        if await cluster.get(NAMESPACE, namespace) is None:
            watcher.step(f"Namespace {namespace} taken away")
            return
        await asyncio.sleep(1)
    watcher.step(f"Namespace {namespace} is going; the cluster is not done with it yet")
