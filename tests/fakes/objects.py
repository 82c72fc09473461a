"""What is wrong with objects for Kubernetes: by its published schemas, and by what we promise of every chart.

    defects(objects, version="1.35")      # one line each: rule, object, what

The schemas know each object for itself, and are strict: an unknown field is a defect. The rules know what they cannot:
what "restricted" of the Pod Security Standards asks, and whether objects that name each other fit.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kubernetes_validate
from kubernetes_validate import SchemaNotFoundError, ValidationError

Object = Mapping[str, Any]

RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
NEEDS_TOKEN = {"marble-injector"}
"""Service accounts of pods that ask the cluster for something."""
ADDED = {"sgx.intel.com/epc", "sgx.intel.com/enclave", "sgx.intel.com/provision"}
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_SECRET = re.compile(r"PRIVATE KEY|BEGIN CERTIFICATE|[A-Za-z0-9+/]{43}=")


def name_of(one: Object) -> str:
    return f"{one.get('kind')}/{one.get('metadata', {}).get('name')}"


def defects(objects: Sequence[Object], *, version: str = "1.35") -> list[str]:
    """Everything that is wrong with the objects of one chart."""
    found = [f"schema: {name_of(one)}: {what}" for one in objects for what in _by_schema(json.dumps(one), version)]
    # The rules read what the schemas promise.
    return found or [f"{rule.__name__}: {where}: {what}" for rule in RULES for where, what in rule(objects)]


@functools.cache  # the schema is read from its file each time, and most objects are asked about often
def _by_schema(text: str, version: str) -> Sequence[str]:
    one = json.loads(text)
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except ValidationError as exc:
        return [f"{'.'.join(str(part) for part in exc.path)}: {exc.message.splitlines()[0][:200]}"]
    except SchemaNotFoundError:
        return [f"{one.get('apiVersion')} has no such kind in Kubernetes {version}"]
    return []


Found = Iterator[tuple[str, str]]
Rule = Callable[[Sequence[Object]], Found]


def of_kind(objects: Sequence[Object], *kinds: str) -> Iterator[Object]:
    return (one for one in objects if one.get("kind") in kinds)


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Each kind of pod: where it stands, its labels, its specification."""
    for one in objects:
        template = one if one.get("kind") == "Pod" else one.get("spec", {}).get("template")
        if isinstance(template, Mapping) and "containers" in template.get("spec", {}):
            yield name_of(one), template.get("metadata", {}).get("labels", {}), template["spec"]


def containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def selects(selector: Object, labels: Object) -> bool:
    wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


# ---- a pod for itself


_MUST = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}


def restricted(objects: Sequence[Object]) -> Found:
    for where, _, spec in pods(objects):
        for shared in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(shared):
                yield where, f"{shared}: the node is not the pod's"
        for volume in spec.get("volumes", []):
            if kinds := set(volume) - {"name"} - RESTRICTED_VOLUMES:
                yield where, f"volume {volume['name']} is a {', '.join(kinds)}"
        for one in containers(spec):
            for what in _unrestricted({**spec.get("securityContext", {}), **one.get("securityContext", {})}):
                yield where, f"{one['name']} {what}"
            if any(port.get("hostPort") for port in one.get("ports", [])):
                yield where, f"{one['name']} takes a port of the node"


def _unrestricted(context: Object) -> Iterator[str]:
    for key, wanted in _MUST.items():
        if context.get(key) is not wanted:
            yield f"has not {key}: {wanted}"
    if context.get("runAsUser", 1) == 0 or context.get("privileged"):
        yield "is root, or privileged"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"


def tokens(objects: Sequence[Object]) -> Found:
    for where, _, spec in pods(objects):
        if spec.get("automountServiceAccountToken") is not False and spec.get("serviceAccountName") not in NEEDS_TOKEN:
            yield where, "has a token for the cluster's API, and asks it for nothing"


def secrets(objects: Sequence[Object]) -> Found:
    for where, _, spec in pods(objects):
        for one in containers(spec):
            if any("secretRef" in source for source in one.get("envFrom", [])):
                yield where, f"{one['name']}: a Secret in its environment"
            for variable in one.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}) or _SECRET.search(str(variable.get("value", ""))):
                    yield where, f"{one['name']}: {variable['name']} holds a secret; mount a file"
            if any(_SECRET.search(str(word)) for word in [*one.get("command", []), *one.get("args", [])]):
                yield where, f"{one['name']}: a secret among its arguments"


def volumes(objects: Sequence[Object]) -> Found:
    claimed = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")}
    for where, _, spec in pods(objects):
        there = {one["name"] for one in spec.get("volumes", [])}
        used = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", [])}
        for name in sorted(there ^ used):
            yield where, f"volume {name} is {'not mounted' if name in there else 'not there'}"
        for one in containers(spec):
            paths = [mount["mountPath"].rstrip("/") for mount in one.get("volumeMounts", [])]
            if len(paths) != len(set(paths)):
                yield where, f"{one['name']} mounts two volumes at one place"
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume and not {"medium", "sizeLimit"} <= set(volume["emptyDir"] or {}):
                yield where, f"volume {volume['name']} lies on the node's disk, or takes what it likes"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claimed and claim and claim not in claimed:
                yield where, f"claim {claim} is none of the chart's"


def running(objects: Sequence[Object]) -> Found:
    for where, _, spec in pods(objects):
        for one in containers(spec):
            if not re.search(r":[^/:]+$", one["image"]) or one["image"].endswith(":latest"):
                yield where, f"{one['image']} names no version"
            if not {"cpu", "memory"} <= set(one.get("resources", {}).get("requests", {})):
                yield where, f"{one['name']} says nothing of what it needs"
            for extended in set(one.get("resources", {}).get("limits", {})) - ADDED:
                if "/" in extended and extended not in one["resources"].get("requests", {extended: None}):
                    yield where, f"{one['name']}: {extended} is limited and not requested"
        if where.startswith("Deployment/"):
            for one in spec["containers"]:
                if missing := {"startupProbe", "readinessProbe"} - set(one):
                    yield where, f"{one['name']} has no {', '.join(sorted(missing))}"


def labels(objects: Sequence[Object]) -> Found:
    for one in objects:
        for key, value in one.get("metadata", {}).get("labels", {}).items():
            if not _LABEL.fullmatch(str(value)):
                yield name_of(one), f"label {key} may not be {value!r}"
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        if not selects(one["spec"]["selector"], one["spec"]["template"]["metadata"].get("labels", {})):
            yield name_of(one), "does not select its own pods"


# ---- objects that name each other


def services(objects: Sequence[Object]) -> Found:
    for one in of_kind(objects, "Service"):
        chosen = [spec for _, marks, spec in pods(objects) if selects(one["spec"].get("selector", {}), marks)]
        if not chosen:
            yield name_of(one), "leads to no pod of the chart"
        for spec in chosen:
            ports = [port for container in spec["containers"] for port in container.get("ports", [])]
            known = {port.get("name") for port in ports} | {port["containerPort"] for port in ports}
            for port in one["spec"]["ports"]:
                if port.get("targetPort", port["port"]) not in known:
                    yield name_of(one), f"port {port['port']} leads to none of its pod's"


def policies(objects: Sequence[Object]) -> Found:
    found = list(of_kind(objects, "NetworkPolicy"))
    for one in found:
        if set(one["spec"].get("policyTypes", [])) != {"Ingress", "Egress"}:
            yield name_of(one), "leaves one direction open"
        if not any(selects(one["spec"]["podSelector"], marks) for _, marks, _ in pods(objects)):
            yield name_of(one), "is for no pod of the chart"
    for where, marks, _ in pods(objects):
        if found and not any(selects(one["spec"]["podSelector"], marks) for one in found):
            yield where, "has no policy"


def scaling(objects: Sequence[Object]) -> Found:
    replicas = {one["metadata"]["name"]: one["spec"].get("replicas", 1) for one in of_kind(objects, "Deployment")}
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        if target["kind"] != "Deployment" or target["name"] not in replicas:
            yield name_of(one), "scales nothing of the chart"
        if one["spec"].get("minReplicas", 1) > one["spec"]["maxReplicas"]:
            yield name_of(one), "its least is more than its most"
    for one in of_kind(objects, "PodDisruptionBudget"):
        chosen = [
            deployment for deployment in of_kind(objects, "Deployment")
            if selects(one["spec"]["selector"], deployment["spec"]["template"]["metadata"]["labels"])
        ]  # fmt: skip
        if not chosen:
            yield name_of(one), "is for no pod of the chart"
        for deployment in chosen:
            kept = one["spec"].get("minAvailable", 0)
            if isinstance(kept, int) and kept >= replicas[deployment["metadata"]["name"]]:
                yield name_of(one), "no node can be drained: it keeps every replica"


def rights(objects: Sequence[Object]) -> Found:
    for one in of_kind(objects, "Role", "ClusterRole"):
        for rule in one.get("rules", []):
            if "*" in [*rule.get("verbs", []), *rule.get("resources", []), *rule.get("apiGroups", [])]:
                yield name_of(one), "has a star"
            reads = {"get", "list", "watch", "update", "patch", "delete"} & set(rule.get("verbs", []))
            if reads and not rule.get("resourceNames"):
                yield name_of(one), f"reaches every one of {', '.join(rule.get('resources', []))}, not named ones"
            if {"escalate", "bind", "impersonate"} & set(rule.get("verbs", [])):
                yield name_of(one), "can give itself more"
    accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
    roles = {(one["kind"], one["metadata"]["name"]) for one in of_kind(objects, "Role", "ClusterRole")}
    for one in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if (one["roleRef"]["kind"], one["roleRef"]["name"]) not in roles:
            yield name_of(one), f"{one['roleRef']['name']} is no role of the chart"
        for subject in one["subjects"]:
            if subject["kind"] != "ServiceAccount" or subject["name"] not in accounts:
                yield name_of(one), f"{subject['name']} is no account of the chart"
    for where, _, spec in pods(objects):
        if spec.get("serviceAccountName") not in accounts:
            yield where, "runs as an account that is none of the chart's"


def webhooks(objects: Sequence[Object]) -> Found:
    there = {one["metadata"]["name"] for one in of_kind(objects, "Service")}
    for one in of_kind(objects, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for hook in one["webhooks"]:
            if hook["clientConfig"].get("service", {}).get("name") not in there:
                yield name_of(one), "asks a service that is none of the chart's"
            if hook.get("timeoutSeconds", 10) > 10 or hook.get("sideEffects") != "None":
                yield name_of(one), "keeps who asks waiting, or does more than answer"
            if not hook.get("objectSelector") or not hook.get("namespaceSelector"):
                yield name_of(one), "would hold up pods that are none of its business"


RULES: tuple[Rule, ...] = (
    restricted, tokens, secrets, volumes, running, labels, services, policies, scaling, rights, webhooks,
)  # fmt: skip
