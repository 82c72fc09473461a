"""A Kubernetes cluster in memory: objects by kind, place and name, with versions, rights, and somebody who interferes."""

import copy
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tacit.errors import ClusterConflictError, ClusterRightError
from tacit.kube.helm import RELEASE, Release
from tacit.kube.objects import CLUSTER_ROLE, DEPLOYMENT, NAMESPACE, SECRET, VOLUME_CLAIM, WEBHOOK, Kind, Object
from tacit.kube.readiness import Part

Key = tuple[str, str, str]


class FakeCluster:
    """As much of a cluster as `tacit.kube` asks for."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.forbidden: set[tuple[str, str]] = set()
        self.interfere: Callable[[str, str], None] = lambda verb, name: None  # called before each change
        self.changes: list[str] = []
        self._version = 0

    def put(self, kind: Kind, value: Mapping[str, Any], namespace: str = "") -> dict[str, Any]:
        """Make or replace an object, as somebody else would."""
        held = copy.deepcopy(dict(value))
        self._version += 1
        metadata = held.setdefault("metadata", {})
        metadata["resourceVersion"] = str(self._version)
        if kind.namespaced:
            metadata["namespace"] = namespace
        self.objects[kind.name, namespace if kind.namespaced else "", metadata["name"]] = held
        return held

    def names(self, kind: Kind) -> list[str]:
        return sorted(name for found, _, name in self.objects if found == kind.name)

    def _check(self, verb: str, kind: Kind) -> None:
        if (verb, kind.plural) in self.forbidden:
            raise ClusterRightError(f"not allowed on this cluster: {verb} {kind.plural}")

    def _change(self, verb: str, kind: Kind, name: str) -> None:
        self._check(verb, kind)
        self.interfere(verb, name)
        self.changes.append(f"{verb} {kind.name} {name}")

    async def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        self._check("get", kind)
        found = self.objects.get((kind.name, namespace if kind.namespaced else "", name))
        return copy.deepcopy(found)

    async def find(self, kind: Kind, *, namespace: str = "", labels: str = "") -> list[Object]:
        self._check("list", kind)
        wanted = [part.partition("=") for part in labels.split(",") if part]

        def fits(value: Mapping[str, Any]) -> bool:
            held = value["metadata"].get("labels") or {}
            return all(key in held and (not sign or held[key] == text) for key, sign, text in wanted)

        return [
            copy.deepcopy(value)
            for (found, place, _), value in sorted(self.objects.items())
            if found == kind.name and (not namespace or place == namespace) and fits(value)
        ]

    async def create(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        name = value["metadata"]["name"]
        self._change("create", kind, name)
        if (kind.name, namespace if kind.namespaced else "", name) in self.objects:
            raise ClusterConflictError(f"{name} exists")
        return self.put(kind, value, namespace)

    async def replace(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        name = value["metadata"]["name"]
        self._change("update", kind, name)
        held = self.objects[kind.name, namespace if kind.namespaced else "", name]
        if held["metadata"]["resourceVersion"] != value["metadata"].get("resourceVersion"):
            raise ClusterConflictError(f"{name} was changed")
        return self.put(kind, value, namespace)

    async def patch(self, kind: Kind, name: str, operations: list[Object], *, namespace: str = "") -> Object:
        self._change("patch", kind, name)
        held = copy.deepcopy(self.objects[kind.name, namespace if kind.namespaced else "", name])
        try:
            apply(held, operations)
        except AssertionError as exc:
            raise ClusterConflictError(f"{name}: {exc}") from exc
        return self.put(kind, held, namespace)

    async def delete(self, kind: Kind, name: str, *, namespace: str = "") -> bool:
        self._change("delete", kind, name)
        return self.objects.pop((kind.name, namespace if kind.namespaced else "", name), None) is not None

    async def may(self, verb: str, kind: Kind, *, namespace: str = "") -> bool:
        return (verb, kind.plural) not in self.forbidden

    async def version(self) -> str:
        return "v1.35.4"

    @asynccontextmanager
    async def forward(self, pod: Object, port: int) -> AsyncIterator[int]:
        yield port


def apply(value: Any, operations: Sequence[Object]) -> None:
    """A JSON patch with `add` and `test`, in place (RFC 6902)."""
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = value
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if operation["op"] == "test":
            assert place[last] == operation["value"], "a test does not hold"
        elif isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        else:
            place[last] = operation["value"]


class FakeHelm:
    """Makes on a fake cluster what the chart would, as far as one looks for it."""

    def __init__(self, cluster: FakeCluster, namespace: str = "marblerun") -> None:
        self.cluster, self.namespace = cluster, namespace
        self.held: Release | None = None
        self.values: Mapping[str, Any] = {}
        self.ready = True
        self.injector = True

    async def release(self, name: str = RELEASE) -> Release | None:
        return self.held

    async def install(self, chart: Path, values: Mapping[str, Any], more: Sequence[str], name: str = RELEASE) -> None:
        self.values = values
        self.held = Release("tacit-0.1.0", "deployed", 1)
        self.cluster.put(VOLUME_CLAIM, {**named("coordinator-pv-claim"), "status": {"phase": "Bound"}}, self.namespace)
        for deployment, replicas in (("marblerun-coordinator", 1), ("marble-injector", 2))[: 1 + self.injector]:
            self.cluster.put(DEPLOYMENT, a_deployment(deployment, replicas, ready=self.ready), self.namespace)
        self.cluster.put(WEBHOOK, named(f"marble-injector-{self.namespace}"))
        self.cluster.put(CLUSTER_ROLE, named(f"marble-injector-{self.namespace}"))
        self.cluster.put(SECRET, named(f"sh.helm.release.v1.{name}.v1"), self.namespace)

    async def uninstall(self, name: str = RELEASE) -> None:
        self.held = None
        for key in list(self.cluster.objects):
            if PART in (self.cluster.objects[key]["metadata"].get("labels") or {}):
                del self.cluster.objects[key]


PART = "app.kubernetes.io/part-of"


def named(name: str, **labels: str) -> dict[str, Any]:
    """An object of the chart that is no more than its name."""
    return {"metadata": {"name": name, "labels": {PART: "marblerun", **labels}}}


def a_deployment(name: str, replicas: int, *, ready: bool = True) -> dict[str, Any]:
    count = replicas if ready else 0
    return {
        "metadata": {"name": name, "generation": 1, "labels": {PART: "marblerun"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}},
        "status": {"observedGeneration": 1, "updatedReplicas": count, "availableReplicas": count},
    }


def a_namespace(cluster: FakeCluster, name: str, **labels: str) -> None:
    cluster.put(NAMESPACE, {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}})


class Told:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.seen: list[Sequence[Part]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def parts(self, parts: Sequence[Part]) -> None:
        self.seen.append(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.steps)
