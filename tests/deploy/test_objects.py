"""What is checked in every chart is found where it is wrong: one broken object for each rule."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes import objects
from fakes.objects import defects

GOOD = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: server}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, labels: {app: server}}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      serviceAccountName: server
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: server
          image: localhost/server:1
          args: [--port=8500]
          env: [{name: A, value: "1"}]
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          resources: {requests: {cpu: 50m, memory: 64Mi}}
          ports: [{name: grpc, containerPort: 8500}]
          startupProbe: {tcpSocket: {port: grpc}}
          readinessProbe: {tcpSocket: {port: grpc}}
          volumeMounts: [{name: tmp, mountPath: /tmp}, {name: models, mountPath: /models}]
      volumes:
        - {name: tmp, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
        - {name: models, persistentVolumeClaim: {claimName: models}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 110Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {type: LoadBalancer, selector: {app: server}, ports: [{port: 8500, targetPort: grpc}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 8500}]}], egress: []}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: server}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: server}
  minReplicas: 1
  maxReplicas: 4
  metrics: [{type: Pods, pods: {metric: {name: queue}, target: {type: AverageValue, averageValue: 50m}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: server}
spec: {minAvailable: 1, selector: {matchLabels: {app: server}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: server}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [mine], verbs: [get, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: server}
subjects: [{kind: ServiceAccount, name: server, namespace: n}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: server}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: server}
webhooks:
  - name: a.b.c
    clientConfig: {service: {name: server, namespace: n, path: /mutate}}
    rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
    objectSelector: {matchExpressions: [{key: marked, operator: Exists}]}
    namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}]}
    timeoutSeconds: 10
    sideEffects: None
    admissionReviewVersions: [v1]
"""
POD = "Deployment.spec.template.spec"
FIRST = f"{POD}.containers.0"
GONE = object()

BROKEN: list[tuple[str, str, Any]] = [
    # the rule that finds it, where, what is put there
    ("schema", "Deployment.spec.replica", 2),
    ("schema", "Deployment.spec.replicas", "two"),
    ("schema", f"{POD}.container", []),
    ("schema", f"{FIRST}.readinessProbe.tcpSocket.port", None),
    ("schema", "Deployment.apiVersion", "apps/v1beta1"),
    ("schema", "Service.spec.typ", "LoadBalancer"),
    ("schema", "Service.spec.ports.0.port", "8500"),
    ("schema", "NetworkPolicy.spec.ingres", []),
    ("schema", "NetworkPolicy.spec.ingress.0.ports.0.protocols", "TCP"),
    ("schema", "HorizontalPodAutoscaler.spec.maxReplicas", GONE),
    ("schema", "HorizontalPodAutoscaler.spec.metrics.0.pods.target.averageValues", "1"),
    ("schema", "HorizontalPodAutoscaler.apiVersion", "autoscaling/v2beta2"),
    ("schema", "PodDisruptionBudget.spec.minAvailabl", 1),
    ("schema", "PodDisruptionBudget.apiVersion", "policy/v1beta1"),
    ("schema", "MutatingWebhookConfiguration.webhooks.0.failure", "Ignore"),
    ("schema", "MutatingWebhookConfiguration.webhooks.0.admissionReviewVersions", GONE),
    ("schema", "Role.rules.0.verb", ["get"]),
    ("schema", "PersistentVolumeClaim.spec.accessMode", []),
    ("restricted", f"{POD}.securityContext.runAsNonRoot", GONE),
    ("restricted", f"{POD}.securityContext.runAsUser", 0),
    ("restricted", f"{POD}.securityContext.seccompProfile", GONE),
    ("restricted", f"{POD}.hostNetwork", True),
    ("restricted", f"{POD}.volumes.0", {"name": "tmp", "hostPath": {"path": "/var/run/aesmd"}}),
    ("restricted", f"{FIRST}.securityContext.allowPrivilegeEscalation", GONE),
    ("restricted", f"{FIRST}.securityContext.readOnlyRootFilesystem", False),
    ("restricted", f"{FIRST}.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ("restricted", f"{FIRST}.securityContext.privileged", True),
    ("restricted", f"{FIRST}.ports.0.hostPort", 8500),
    ("tokens", f"{POD}.automountServiceAccountToken", GONE),
    ("secrets", f"{FIRST}.env.0", {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
    ("secrets", f"{FIRST}.env.0.value", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ("secrets", f"{FIRST}.envFrom", [{"secretRef": {"name": "s"}}]),
    ("secrets", f"{FIRST}.args.0", "--key=-----BEGIN PRIVATE KEY-----"),
    ("volumes", f"{POD}.volumes.0.name", "tmpp"),
    ("volumes", f"{POD}.volumes.0.emptyDir", {}),
    ("volumes", f"{POD}.volumes.1.persistentVolumeClaim.claimName", "other"),
    ("volumes", f"{FIRST}.volumeMounts.1.mountPath", "/tmp/"),
    ("running", f"{FIRST}.image", "localhost/server"),
    ("running", f"{FIRST}.image", "localhost/server:latest"),
    ("running", f"{FIRST}.resources", {}),
    ("running", f"{FIRST}.readinessProbe", GONE),
    ("labels", "Deployment.metadata.labels.app", "a server"),
    ("labels", "Deployment.spec.selector.matchLabels.app", "other"),
    ("services", "Service.spec.selector.app", "other"),
    ("services", "Service.spec.ports.0.targetPort", "rest"),
    ("policies", "NetworkPolicy.spec.policyTypes", ["Ingress"]),
    ("policies", "NetworkPolicy.spec.podSelector.matchLabels.app", "other"),
    ("scaling", "HorizontalPodAutoscaler.spec.scaleTargetRef.name", "other"),
    ("scaling", "HorizontalPodAutoscaler.spec.minReplicas", 9),
    ("scaling", "PodDisruptionBudget.spec.minAvailable", 2),
    ("scaling", "PodDisruptionBudget.spec.selector.matchLabels.app", "other"),
    ("rights", "Role.rules.0.verbs", ["*"]),
    ("rights", "Role.rules.0.resourceNames", GONE),
    ("rights", "Role.rules.0.verbs", ["impersonate"]),
    ("rights", "RoleBinding.roleRef.name", "cluster-admin"),
    ("rights", "RoleBinding.subjects.0.name", "default"),
    ("rights", f"{POD}.serviceAccountName", GONE),
    ("webhooks", "MutatingWebhookConfiguration.webhooks.0.clientConfig.service.name", "other"),
    ("webhooks", "MutatingWebhookConfiguration.webhooks.0.timeoutSeconds", 30),
    ("webhooks", "MutatingWebhookConfiguration.webhooks.0.sideEffects", "Some"),
    ("webhooks", "MutatingWebhookConfiguration.webhooks.0.objectSelector", GONE),
]


WHOLE = [one for one in yaml.safe_load_all(GOOD) if one]


def good() -> list[dict[str, Any]]:
    return copy.deepcopy(WHOLE)


def put(found: list[dict[str, Any]], path: str, value: Any) -> None:
    kind, *words, last = path.split(".")
    place: Any = next(one for one in found if one["kind"] == kind)

    def step(word: str) -> Any:
        return int(word) if word.isdigit() else word

    for word in words:
        place = place[step(word)]
    if value is GONE:
        del place[step(last)]
    else:
        place[step(last)] = copy.deepcopy(value)


@pytest.mark.parametrize("version", ["1.29", "1.35", "1.37"])
def test_good_objects_have_no_defect(version: str) -> None:
    assert defects(good(), version=version) == []


@pytest.mark.parametrize(("rule", "path", "value"), BROKEN)
def test_a_broken_object_is_found_by_its_rule(rule: str, path: str, value: Any) -> None:
    found = good()
    put(found, path, value)
    assert rule in {line.split(":")[0] for line in defects(found)}


def test_every_rule_finds_something() -> None:
    assert {rule.__name__ for rule in objects.RULES} | {"schema"} == {rule for rule, *_ in BROKEN}


def test_a_pod_without_a_policy_is_found_where_others_have_one() -> None:
    found = good()
    other = copy.deepcopy(next(one for one in found if one["kind"] == "Deployment"))
    other["metadata"]["name"] = "other"
    other["spec"]["selector"]["matchLabels"] = other["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    assert [line for line in defects([*found, other]) if line.startswith("policies: Deployment/other")]


def test_the_rules_are_for_every_pod_that_a_chart_can_make() -> None:
    for kind in ("Job", "DaemonSet", "StatefulSet", "ReplicaSet"):
        found = {"kind": kind, "metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": []}}}}
        assert [where for where, *_ in objects.pods([found])] == [f"{kind}/x"]
    assert re.match(
        "restricted",
        defects(
            [
                {
                    "kind": "Pod",
                    "apiVersion": "v1",
                    "metadata": {"name": "p"},
                    "spec": {"containers": [{"name": "c", "image": "a:1"}]},
                }
            ]
        )[0],
    )


VALUES = Path(__file__).parent / "values"


def test_there_are_values_for_every_chart() -> None:
    charts = {one.parent.name for one in (Path(__file__).parents[2] / "deploy" / "charts").glob("*/Chart.yaml")}
    assert charts <= {one.name for one in VALUES.iterdir()}
    assert all(len(list((VALUES / chart).glob("*.yaml"))) >= 3 for chart in charts)
