"""What became of what was installed? Read from the cluster's objects: how much of it is ready, and what is in the way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tacit.kube.objects import Object, name_of

# Reasons for which a container waits, and nothing but a change by a person helps.
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_PULL_LOST = _PULL - {"ErrImagePull"}  # the first failure may be one of the network
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_CRASH = "CrashLoopBackOff"
_LONGEST = 200  # characters of what a cluster says


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is in the way; `lost` where waiting does not help. `pod` is whose log says more."""

    text: str
    lost: bool = False
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One object that was installed: how many of its pieces are ready of how many, and what is in the way."""

    kind: str
    name: str
    ready: int
    wanted: int
    trouble: Trouble | None = None
    is_installed: bool = True

    @property
    def is_ready(self) -> bool:
        """Whether nothing is waited for any more."""
        return self.ready >= self.wanted


def describe_deployment(deployment: Object, pods: Iterable[Object], events: Iterable[Object] = ()) -> Part:
    """A Deployment, with what its pods and the events of this namespace say."""
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    wanted = int(spec.get("replicas", 1))
    generation = (deployment.get("metadata") or {}).get("generation", 0)
    seen = int(status.get("observedGeneration", 0)) >= int(generation)
    updated = min(int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0)))
    ready = updated if seen else 0
    trouble = None if ready >= wanted else _trouble(deployment, list(pods), list(events))
    return Part("Deployment", name_of(deployment), ready, wanted, trouble)


def describe_claim(claim: Object, events: Iterable[Object] = ()) -> Part:
    """A volume claim: bound, or not yet. A class that waits for the first pod is no trouble."""
    name = name_of(claim)
    bound = (claim.get("status") or {}).get("phase") == "Bound"
    trouble = None
    if not bound:
        said = _latest(name, [one for one in events if one.get("reason") != "WaitForFirstConsumer"], normal=True)
        trouble = Trouble(f"no volume yet{f': {said}' if said else ''}")
    return Part("PersistentVolumeClaim", name, int(bound), 1, trouble)


_REVISION = "deployment.kubernetes.io/revision"


def current_pods(deployment: Object, replica_sets: Iterable[Object], pods: Iterable[Object]) -> list[Object]:
    """The pods of a Deployment as it is now; those of an earlier try, and those that are leaving, say nothing about it."""
    status, metadata = deployment.get("status") or {}, deployment.get("metadata") or {}
    if int(status.get("observedGeneration", 0)) < int(metadata.get("generation", 0)):
        return []
    now = (metadata.get("annotations") or {}).get(_REVISION)
    sets = {
        name_of(one)
        for one in replica_sets
        if _owned_by(one, {name_of(deployment)})
        and ((one.get("metadata") or {}).get("annotations") or {}).get(_REVISION) == now
    }
    return [
        pod for pod in pods if _owned_by(pod, sets) and (pod.get("metadata") or {}).get("deletionTimestamp") is None
    ]


def _owned_by(value: Object, names: set[str]) -> bool:
    owners = (value.get("metadata") or {}).get("ownerReferences") or []
    return any(owner.get("name") in names for owner in owners)


def _trouble(deployment: Object, pods: list[Object], events: list[Object]) -> Trouble | None:
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble(f"its pods are refused: {_short(condition.get('message'))}", lost=True)
    found = [trouble for pod in pods if (trouble := _trouble_of(pod, events)) is not None]
    return next((one for one in found if one.lost), found[0] if found else None)


def _trouble_of(pod: Object, events: list[Object]) -> Trouble | None:
    status = pod.get("status") or {}
    name = name_of(pod)
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        trouble = _trouble_in(container, name)
        if trouble is not None:
            return trouble
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(f"no node takes it: {_short(condition.get('message'))}")
    said = _latest(name, events) if status.get("phase") == "Pending" else ""
    return Trouble(said) if said else None


def _trouble_in(container: Mapping[str, Any], pod: str) -> Trouble | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), _short(waiting.get("message"))
    if reason in _PULL:
        image = container.get("image")
        return Trouble(f"the image {image} cannot be pulled: {message or reason}", lost=reason in _PULL_LOST)
    if reason in _CONFIG:
        return Trouble(f"its container cannot be made: {message or reason}", lost=reason != "CreateContainerError")
    last = (container.get("lastState") or {}).get("terminated") or {}
    if reason == _CRASH or last:
        code = last.get("exitCode", "?")
        why = "not enough memory" if last.get("reason") == "OOMKilled" else f"exit code {code}"
        return Trouble(f"its container ends again and again ({why})", lost=reason == _CRASH, pod=pod)
    return None


def _latest(name: str, events: Iterable[Object], *, normal: bool = False) -> str:
    """What was last said about an object, warnings alone unless `normal`."""
    about = [
        one
        for one in events
        if (one.get("involvedObject") or {}).get("name") == name and (normal or one.get("type") == "Warning")
    ]
    about = [one for one in about if one.get("reason") not in ("Unhealthy", "Scheduled")]  # a probe before it is up
    newest = max(about, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""), default=None)
    return "" if newest is None else _short(newest.get("message"))


def _short(message: object) -> str:
    """A message as one line; of a long one the end, where the cause stands."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in str(message or "")).split())
    return text if len(text) <= _LONGEST else f"...{text[-_LONGEST:]}"
