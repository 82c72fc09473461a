"""What a cluster holds, as values: the kinds that are used here, and the calls that one can make about them."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Object = Mapping[str, Any]
"""An object as Kubernetes' API gives it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: where its API is, what one of them is called, and whether it lives in a namespace."""

    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the oldest one."""
        group, slash, _ = self.version.rpartition("/")
        return group if slash else ""


NAMESPACE = Kind("v1", "namespaces", "Namespace", namespaced=False)
NODE = Kind("v1", "nodes", "Node", namespaced=False)
POD = Kind("v1", "pods", "Pod")
SECRET = Kind("v1", "secrets", "Secret")
CONFIG_MAP = Kind("v1", "configmaps", "ConfigMap")
SERVICE = Kind("v1", "services", "Service")
SERVICE_ACCOUNT = Kind("v1", "serviceaccounts", "ServiceAccount")
VOLUME_CLAIM = Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENT = Kind("v1", "events", "Event")
DEPLOYMENT = Kind("apps/v1", "deployments", "Deployment")
REPLICA_SET = Kind("apps/v1", "replicasets", "ReplicaSet")
STATEFUL_SET = Kind("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SET = Kind("apps/v1", "daemonsets", "DaemonSet")
DISRUPTION_BUDGET = Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
ROLE = Kind("rbac.authorization.k8s.io/v1", "roles", "Role")
ROLE_BINDING = Kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(
    "rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
WEBHOOK = Kind(
    "admissionregistration.k8s.io/v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    namespaced=False,
)
SIGNING_REQUEST = Kind(
    "certificates.k8s.io/v1", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
)


class Cluster(Protocol):
    """A cluster, as far as it is used here.

    Every call raises ClusterAccessError and ClusterRightError, and ClusterError for what else the cluster refuses.
    """

    async def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        """One object; None where there is none, or no such kind on this cluster."""

    async def find(self, kind: Kind, *, namespace: str = "", labels: str = "") -> list[Object]:
        """Objects of a namespace, or of all; none where the cluster has no such kind."""

    async def create(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        """Make an object. Raises: ClusterConflictError where it exists."""

    async def replace(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        """Put a value in place of the one that it was read as. Raises: ClusterConflictError where that changed."""

    async def patch(self, kind: Kind, name: str, operations: list[Object], *, namespace: str = "") -> Object:
        """A JSON patch. Raises: ClusterConflictError where a test in it does not hold."""

    async def delete(self, kind: Kind, name: str, *, namespace: str = "") -> bool:
        """Take an object away; whether there was one."""

    async def may(self, verb: str, kind: Kind, *, namespace: str = "") -> bool:
        """What the cluster answers when asked whether we may do this."""

    async def version(self) -> str:
        """The cluster's own version, such as v1.35.4."""

    async def execute(self, pod: Object, command: Sequence[str], *, content: Iterable[bytes] = ()) -> tuple[int, bytes]:
        """Run a command in a pod's first container, with this as its input: its exit code, and what it said.

        The command has to know how much it reads, and says a line after each piece: then comes the next one. A break of
        the connection is a ClusterAccessError.
        """

    def forward(self, pod: Object, port: int) -> AbstractAsyncContextManager[int]:
        """A port of this machine's loopback that leads to a port of a pod, for the length of the block."""

    def watch(self, kind: Kind, *, namespace: str) -> AsyncIterator[Object]:
        """Objects of a namespace, each time one changes."""


def name_of(value: Object) -> str:
    """What an object is called."""
    return str((value.get("metadata") or {}).get("name", ""))


def labels_of(value: Object) -> Mapping[str, str]:
    """An object's labels."""
    return (value.get("metadata") or {}).get("labels") or {}
