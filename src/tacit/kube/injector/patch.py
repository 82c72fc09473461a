"""The rule of the injector: from a pod and the settings to the operations of a JSON patch, or to a refusal.

Which pods are marbles, and how, their labels say:

- `marblerun/marbletype`: the marble's type in the manifest; without it nothing is done to a pod.
- `marblerun/marblecontainer`: the one container that is the marble; without it, all are.
- `marblerun/resource-injection: disabled`: no resources of a TEE, and no toleration.

Each container is looked at by itself: what one of them has already says nothing about another.

Source: recorded patches of MarbleRun v1.9.1. RFC 6902.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tacit.errors import AdmissionError
from tacit.kube.hardware import INTEL_EPC, Wanted, parse_resource_key

TYPE_LABEL = "marblerun/marbletype"
CONTAINER_LABEL = "marblerun/marblecontainer"
_CONTAINERS = 256  # more than any pod has; each costs an answer that is larger than the question
RESOURCES_LABEL = "marblerun/resource-injection"
_DISABLED = "disabled"

_ADDRESS = "EDG_MARBLE_COORDINATOR_ADDR"
_TYPE = "EDG_MARBLE_TYPE"
_NAMES = "EDG_MARBLE_DNS_NAMES"
_UUID_FILE = "EDG_MARBLE_UUID_FILE"
_FILE = "uuid-file"

# The type becomes part of a path, the review's identifier part of a volume's name. Kubernetes holds both to this; whoever
# else sends a review is not to choose a path.
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_UID = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")

Operation = Mapping[str, Any]
"""One operation of a JSON patch."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where marbles find the coordinator, what their names end with, and what they ask their node for: None for nothing."""

    coordinator: str = "coordinator-mesh-api.marblerun:2001"
    cluster_domain: str = "cluster.local"
    wanted: Wanted | None = field(default_factory=lambda: parse_resource_key(INTEL_EPC))


class Variable(msgspec.Struct):
    """A variable of a container."""

    name: str = ""


class Mount(msgspec.Struct):
    """A volume in a container."""

    mountPath: str = ""  # noqa: N815 -- Kubernetes' name


class Resources(msgspec.Struct):
    """What a container asks for."""

    limits: dict[str, Any] | None = None


class Container(msgspec.Struct):
    """A container, as far as the rule looks at it."""

    name: str = ""
    env: list[Variable] | None = None
    volumeMounts: list[Mount] | None = None  # noqa: N815 -- Kubernetes' name
    resources: Resources | None = None


class Spec(msgspec.Struct):
    """What a pod is to be."""

    containers: list[Container] | None = None
    volumes: list[dict[str, Any]] | None = None
    tolerations: list[dict[str, Any]] | None = None


class Metadata(msgspec.Struct):
    """What a pod is called."""

    labels: dict[str, str] | None = None


class Pod(msgspec.Struct):
    """A pod, as far as the rule looks at it."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)


@dataclass(frozen=True, slots=True)
class Patch:
    """What makes a pod a marble: operations in their order, and what the person who made the pod should read."""

    marble_type: str
    operations: tuple[Operation, ...]
    warnings: tuple[str, ...] = ()


def patch_pod(pod: Pod, *, namespace: str, uid: str, settings: Settings) -> Patch | None:
    """The patch for a pod; None where it is no marble, and nothing is to be done.

    Args:
        pod: As it was asked for.
        namespace: Where it is to run.
        uid: Of the review; makes the name of the volume the pod's own.
        settings: Of this injector.

    Raises:
        AdmissionError: the label is empty, or something that Kubernetes would not have let pass.
    """
    labels = pod.metadata.labels or {}
    if TYPE_LABEL not in labels:
        return None
    marble_type = labels[TYPE_LABEL]
    if not marble_type:
        raise AdmissionError(f"Empty [{TYPE_LABEL}] label, request denied")
    if not _LABEL_VALUE.fullmatch(marble_type):
        raise AdmissionError(f"Invalid [{TYPE_LABEL}] label, request denied: no value of a label has such characters")
    if not _UID.fullmatch(uid):
        raise AdmissionError("the review's uid is none; expected one of Kubernetes' own making")
    if len(pod.spec.containers or ()) > _CONTAINERS:
        raise AdmissionError(f"the pod has more than {_CONTAINERS} containers, request denied")
    wanted = None if labels.get(RESOURCES_LABEL) == _DISABLED else settings.wanted
    only = labels.get(CONTAINER_LABEL) or None
    containers = pod.spec.containers or []
    chosen = [(at, one) for at, one in enumerate(containers) if only is None or one.name == only]
    marble = _Marble(marble_type, namespace or "default", f"{_FILE}-{uid}", settings)
    operations = [operation for at, one in chosen for operation in marble.container(at, one, wanted)]
    if any(marble.needs_file(one) for _, one in chosen):
        operations += _append("/spec/volumes", pod.spec.volumes, [marble.volume()])
    if wanted is not None:
        toleration = {"key": wanted.key, "operator": "Exists", "effect": "NoSchedule"}
        if toleration not in (pod.spec.tolerations or []):
            operations += _append("/spec/tolerations", pod.spec.tolerations, [toleration])
    warnings = () if chosen else (_nobody(only, containers),)
    return Patch(marble_type, tuple(operations), warnings)


def _nobody(only: str | None, containers: list[Container]) -> str:
    names = ", ".join(one.name for one in containers) or "none"
    return f"{CONTAINER_LABEL} is {only}, and the pod has no such container ({names}): none was prepared"


@dataclass(frozen=True, slots=True)
class _Marble:
    """One pod's marble: what its containers are told."""

    kind: str
    namespace: str
    volume_name: str
    settings: Settings

    @property
    def folder(self) -> str:
        return f"/{self.kind}-uid"

    def variables(self) -> Iterator[tuple[str, str]]:
        place = f"{self.kind}.{self.namespace}"
        names = f"{self.kind},{place},{place}.svc.{self.settings.cluster_domain}"
        yield _ADDRESS, self.settings.coordinator
        yield _TYPE, self.kind
        yield _NAMES, names.lower()
        yield _UUID_FILE, f"{self.folder}/{_FILE}"

    def needs_file(self, container: Container) -> bool:
        """Whether this container is to find its UUID in our file: unless it says where it is, or has a volume there."""
        named = any(one.name == _UUID_FILE for one in container.env or [])
        return not named and all(one.mountPath.rstrip("/") != self.folder for one in container.volumeMounts or [])

    def container(self, at: int, container: Container, wanted: Wanted | None) -> Iterator[Operation]:
        path = f"/spec/containers/{at}"
        held = {one.name for one in container.env or []}
        new = [{"name": name, "value": value} for name, value in self.variables() if name not in held]
        yield from _append(f"{path}/env", container.env, new)
        if self.needs_file(container):
            mount = {"name": self.volume_name, "mountPath": self.folder}
            yield from _append(f"{path}/volumeMounts", container.volumeMounts, [mount])
        if wanted is not None:
            yield from _limits(path, container.resources, wanted.limits)

    def volume(self) -> Mapping[str, Any]:
        """The pod's own UUID, which is the marble's, as a file."""
        item = {"path": _FILE, "fieldRef": {"fieldPath": "metadata.uid"}}
        return {"name": self.volume_name, "downwardAPI": {"items": [item]}}


def _append(path: str, held: object, values: list[Any]) -> list[Operation]:
    """Add to the end of a list, which is made where there is none."""
    if not values:
        return []
    if held is None:
        return [{"op": "add", "path": path, "value": values}]
    return [{"op": "add", "path": f"{path}/-", "value": value} for value in values]


def _limits(path: str, held: Resources | None, wanted: Mapping[str, str]) -> list[Operation]:
    """Limits that the container does not set itself."""
    if held is None:
        return [{"op": "add", "path": f"{path}/resources", "value": {"limits": dict(wanted)}}]
    if held.limits is None:
        return [{"op": "add", "path": f"{path}/resources/limits", "value": dict(wanted)}]
    limits = held.limits
    return [
        {"op": "add", "path": f"{path}/resources/limits/{_escape(key)}", "value": amount}
        for key, amount in wanted.items()
        if key not in limits
    ]


def _escape(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")
