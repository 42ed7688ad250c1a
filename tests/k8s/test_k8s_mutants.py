"""Manifests with one mistake each: every one is refused, and for the reason that it has."""

# ruff: noqa: E501  (a table: one line a mistake)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from k8s_reasons import Document, name_of
from k8s_render import documents, secret_values
from k8s_schemas import need_definitions
from k8s_validate import validate

Change = Callable[[list[Document]], object]
CLUSTER = "spec.rayClusterSpec."
HEAD = f"{CLUSTER}headGroupSpec.template.spec."
GROUP = f"{CLUSTER}workerGroupSpecs.0."
WORKER = f"{GROUP}template.spec."
STUDY, MLFLOW = "RayJob/study", "Deployment/mlflow"
SERVER = "spec.template.spec."
GONE = object()


def change(where: str, path: str, value: Any) -> Change:
    """Set a place of a document, by its kind and name; ``GONE`` takes it away, ``-`` appends."""

    def apply(all_documents: list[Document]) -> None:
        place: Any = next(each for each in all_documents if name_of(each) == where)
        *parts, last = path.split(".")
        for part in parts:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if last == "-":
            place.append(value)
        elif value is GONE:
            del place[int(last) if isinstance(place, list) else last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return apply


def rename(where: str, path: str, name: str) -> Change:
    """Misspell a key."""

    def apply(all_documents: list[Document]) -> None:
        place: Any = next(each for each in all_documents if name_of(each) == where)
        *parts, last = path.split(".")
        for part in parts:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[name] = place.pop(last)

    return apply


def without(where: str) -> Change:
    def apply(all_documents: list[Document]) -> None:
        kept = [each for each in all_documents if name_of(each) != where]
        assert len(kept) == len(all_documents) - 1
        all_documents[:] = kept

    return apply


def added(document: Document) -> Change:
    return lambda all_documents: all_documents.append(document)


def entrypoint(old: str, new: str) -> Change:
    def apply(all_documents: list[Document]) -> None:
        job = next(each for each in all_documents if name_of(each) == STUDY)
        assert old in job["spec"]["entrypoint"]
        job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace(old, new)

    return apply


def policy(name: str, **spec: Any) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "ssprompt"},
        "spec": spec,
    }


RAY_PODS = {"matchLabels": {"ssprompt/ray": "true"}}
MLFLOW_PODS = {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}
OPERATOR_PEER = "spec.ingress.0.from.0.namespaceSelector.matchLabels"


def port(number: Any) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": number}]


# the rule that refuses it, the environment, what is wrong with it
MUTANTS: list[tuple[str, str, str, Change]] = [
    # misspelt fields and wrong types, which a strict API server refuses too
    ("schema", "dev/study", "typo in the job", rename(STUDY, "spec.backoffLimit", "backofLimit")),
    ("schema", "dev/study", "typo in the cluster", rename(STUDY, f"{CLUSTER}authOptions", "authOption")),
    ("schema", "dev/study", "typo in a group", rename(STUDY, f"{GROUP}minReplicas", "minReplica")),
    ("schema", "dev/study", "typo in a pod", rename(STUDY, f"{WORKER}tolerations", "toleration")),
    ("schema", "dev/study", "typo in a container", rename(STUDY, f"{HEAD}containers.0.securityContext", "securityContex")),
    ("schema", "dev/study", "typo in a pod's metadata", rename(STUDY, f"{CLUSTER}headGroupSpec.template.metadata.labels", "label")),
    ("schema", "dev/study", "typo in a rule", rename(STUDY, "spec.deletionStrategy.deletionRules.0.policy", "polcy")),
    ("schema", "dev", "typo in a deployment", rename(MLFLOW, f"{SERVER}containers.0.readinessProbe", "readynessProbe")),
    ("schema", "dev", "typo in a policy", rename("NetworkPolicy/mlflow", "spec.ingress", "ingres")),
    ("schema", "prod", "typo in a monitor", rename("PodMonitor/ray", "spec.podMetricsEndpoints", "podMetricEndpoints")),
    ("schema", "dev/study", "number as text", change(STUDY, "spec.backoffLimit", "4")),
    ("schema", "dev/study", "text as number", change(STUDY, f"{CLUSTER}rayVersion", 2.6)),
    ("schema", "dev/study", "value that is no text", change(STUDY, f"{HEAD}containers.0.env.2.value", 1500)),
    ("schema", "dev/study", "unknown mode of authentication", change(STUDY, f"{CLUSTER}authOptions.mode", "tokens")),
    ("schema", "dev/study", "unknown deletion policy", change(STUDY, "spec.deletionStrategy.deletionRules.0.policy", "DeleteAll")),
    ("schema", "dev/study", "unknown state", change(STUDY, "spec.deletionStrategy.deletionRules.2.condition.jobDeploymentStatus", "Broken")),
    ("schema", "dev/study", "no head", change(STUDY, f"{CLUSTER}headGroupSpec", GONE)),
    ("schema", "dev", "replicas as text", change(MLFLOW, "spec.replicas", "1")),
    ("schema", "dev", "wrong API", change(MLFLOW, "apiVersion", "extensions/v1beta1")),
    # what the operator refuses
    ("submission-mode", "dev/study", "unknown submission mode", change(STUDY, "spec.submissionMode", "HttpMode")),
    ("submission-mode", "dev/study", "no submission mode", change(STUDY, "spec.submissionMode", GONE)),
    ("submitter", "dev/study", "submitter of its own", change(STUDY, "spec.submitterConfig", {"backoffLimit": 2})),
    ("pull-policy", "dev/study", "unknown pull policy", change(STUDY, f"{HEAD}containers.0.imagePullPolicy", "Sometimes")),
    ("replicas", "dev/study", "fewer at most than now", change(STUDY, f"{GROUP}replicas", 3)),
    ("scale-to-zero", "dev/study", "always one worker", change(STUDY, f"{GROUP}minReplicas", 1)),
    ("scale-to-zero", "dev/study", "idle for ever", change(STUDY, f"{GROUP}idleTimeoutSeconds", GONE)),
    ("deletion", "dev/study", "rules and shutdown", change(STUDY, "spec.shutdownAfterJobFinishes", True)),
    ("deletion", "dev/study", "workers deleted beside the autoscaler", change(STUDY, "spec.deletionStrategy.deletionRules.-", {"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED", "ttlSeconds": 0}})),
    ("deletion", "dev/study", "rule without a state", change(STUDY, "spec.deletionStrategy.deletionRules.-", {"policy": "DeleteSelf", "condition": {"ttlSeconds": 9}})),
    ("deletion", "dev/study", "itself before its cluster", change(STUDY, "spec.deletionStrategy.deletionRules.-", {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 9}})),
    ("cleanup", "dev/study", "a deadline leaks the cluster", change(STUDY, "spec.deletionStrategy.deletionRules.2", GONE)),
    ("cleanup", "dev/study", "a failure leaks the cluster", change(STUDY, "spec.deletionStrategy.deletionRules.1", GONE)),
    ("deadline", "dev/study", "no deadline", change(STUDY, "spec.activeDeadlineSeconds", GONE)),
    ("deadline", "dev/study", "waits for ever to run", change(STUDY, "spec.preRunningDeadlineSeconds", GONE)),
    ("deadline", "dev/encode", "deadline of zero", change("RayJob/encode", "spec.activeDeadlineSeconds", 0)),
    ("retries", "dev/study", "no retry", change(STUDY, "spec.backoffLimit", 0)),
    ("restart-policy", "dev/study", "worker that restarts", change(STUDY, f"{WORKER}restartPolicy", "Always")),
    ("restart-policy", "dev/study", "head without a policy", change(STUDY, f"{HEAD}restartPolicy", GONE)),
    ("autoscaler", "dev/study", "first autoscaler", change(STUDY, f"{CLUSTER}autoscalerOptions.version", "v1")),
    ("operator-labels", "dev/study", "label that the operator sets", change(STUDY, f"{CLUSTER}headGroupSpec.template.metadata.labels", {"ssprompt/ray": "true", "ssprompt/role": "head", "ssprompt/s3": "true", "app.kubernetes.io/name": "x"})),
    ("name", "dev/study", "name too long", change(STUDY, "metadata.name", "s" * 60)),
    ("kueue", "prod/study-kueue", "queued with an autoscaler", lambda docs: [
        change(STUDY, f"{CLUSTER}enableInTreeAutoscaling", True)(docs),
        change(STUDY, f"{CLUSTER}autoscalerOptions", documents("prod/study")[-1]["spec"]["rayClusterSpec"]["autoscalerOptions"])(docs),
        change(STUDY, f"{GROUP}idleTimeoutSeconds", 9)(docs),
        change(STUDY, f"{GROUP}minReplicas", 0)(docs),
        change(STUDY, f"{HEAD}automountServiceAccountToken", GONE)(docs),
    ]),
    ("autoscaler", "prod/study-kueue", "idle time without an autoscaler", change(STUDY, f"{GROUP}idleTimeoutSeconds", 300)),
    # who may use a cluster
    ("token-auth", "dev/study", "no token", change(STUDY, f"{CLUSTER}authOptions", GONE)),
    ("token-auth", "dev/study", "token turned off", change(STUDY, f"{CLUSTER}authOptions.mode", "disabled")),
    ("token-auth", "dev/study", "token of Kubernetes", change(STUDY, f"{CLUSTER}authOptions.enableK8sTokenAuth", True)),
    ("head-work", "dev/study", "trials on the head", change(STUDY, f"{CLUSTER}headGroupSpec.rayStartParams.num-cpus", "2")),
    ("driver-place", "dev/study", "driver on a worker", change(STUDY, "spec.entrypointNumCpus", 1)),
    ("spot", "prod/study", "head on spot nodes", change(STUDY, f"{HEAD}tolerations", [{"key": "cloud.google.com/gke-spot", "operator": "Exists"}])),
    ("spot", "prod/study", "head tolerates everything", change(STUDY, f"{HEAD}tolerations", [{"operator": "Exists"}])),
    ("spot", "dev/study", "head kept off no node", change(STUDY, f"{HEAD}affinity", GONE)),
    ("spot", "prod", "MLflow on spot nodes", change(MLFLOW, f"{SERVER}tolerations", [{"key": "karpenter.sh/capacity-type", "operator": "Exists"}])),
    # containers
    ("privileged", "dev/study", "privileged worker", change(STUDY, f"{WORKER}containers.0.securityContext.privileged", True)),
    ("escalation", "dev/study", "head that may become more", change(STUDY, f"{HEAD}containers.0.securityContext.allowPrivilegeEscalation", GONE)),
    ("capabilities", "dev", "capability that stays", change(MLFLOW, f"{SERVER}containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]})),
    ("capabilities", "dev", "capability that comes", change("StatefulSet/postgres", f"{SERVER}containers.0.securityContext.capabilities.add", ["CHOWN"])),
    ("root", "dev", "root", change("StatefulSet/objectstore", f"{SERVER}securityContext.runAsUser", 0)),
    ("root", "dev/study", "autoscaler that may be root", change(STUDY, f"{CLUSTER}autoscalerOptions.securityContext.runAsNonRoot", False)),
    ("seccomp", "dev", "no seccomp", change(MLFLOW, f"{SERVER}securityContext.seccompProfile", {"type": "Unconfined"})),
    ("read-only", "dev/study", "writable root file system", change(STUDY, f"{WORKER}containers.0.securityContext.readOnlyRootFilesystem", False)),
    ("host", "dev", "network of the host", change(MLFLOW, f"{SERVER}hostNetwork", True)),
    ("host", "dev/study", "port of the host", change(STUDY, f"{HEAD}containers.0.ports.1.hostPort", 8265)),
    ("account-token", "dev/study", "worker with a token", change(STUDY, f"{WORKER}automountServiceAccountToken", True)),
    ("account-token", "dev", "MLflow with a token", change(MLFLOW, f"{SERVER}automountServiceAccountToken", GONE)),
    ("pod-security", "dev", "nothing enforced", change("Namespace/ssprompt", "metadata.labels", {"a": "b"})),
    # resources
    ("resources", "dev/study", "no limit", change(STUDY, f"{HEAD}containers.0.resources.limits.memory", GONE)),
    ("resources", "dev/study", "memory that is promised twice", change(STUDY, f"{WORKER}containers.0.resources.requests.memory", "1Gi")),
    ("resources", "dev", "asks for more than it may have", change(MLFLOW, f"{SERVER}containers.0.resources.requests.cpu", "3")),
    ("resources", "dev/study", "no disk asked for", change(STUDY, f"{WORKER}containers.0.resources.requests.ephemeral-storage", GONE)),
    ("quantity", "dev", "quantity that is none", change(MLFLOW, f"{SERVER}containers.0.resources.limits.memory", "2GB")),
    ("ephemeral", "dev/study", "cache without an end", change(STUDY, f"{WORKER}volumes.1.emptyDir", {})),
    ("ephemeral", "dev/study", "cache larger than the pod", change(STUDY, f"{WORKER}volumes.1.emptyDir.sizeLimit", "50Gi")),
    # references
    ("reference", "dev/study", "no such Secret", change(STUDY, f"{CLUSTER}authOptions.secretName", "ray-tokens")),
    ("reference", "dev/study", "no such key", change(STUDY, f"{WORKER}containers.0.env.2.valueFrom.secretKeyRef.key", "ACCESS_KEY")),
    ("reference", "dev/study", "no such account", change(STUDY, f"{WORKER}serviceAccountName", "ray-workers")),
    ("reference", "dev/study", "no such ConfigMap", change(STUDY, f"{WORKER}containers.0.env.4.valueFrom.configMapKeyRef.name", "s3")),
    ("reference", "dev", "no such claim", change(MLFLOW, f"{SERVER}volumes.1", {"name": "tmp", "persistentVolumeClaim": {"claimName": "tmp"}})),
    ("volume", "dev/study", "mount without a volume", change(STUDY, f"{HEAD}containers.0.volumeMounts.1.name", "scratches")),
    ("selector", "dev", "selector that misses its pods", change("Service/mlflow", "spec.selector", {"app.kubernetes.io/name": "ml-flow"})),
    ("selector", "dev", "deployment that misses its pods", change(MLFLOW, "spec.selector.matchLabels", {"app": "mlflow"})),
    ("port", "dev", "service to no port", change("Service/postgres", "spec.ports.0.targetPort", "postgresql")),
    ("port", "prod", "monitor of no port", change("PodMonitor/mlflow", "spec.podMetricsEndpoints.0.port", "metrics")),
    ("port", "prod", "ingress to no port", change("Ingress/mlflow", "spec.rules.0.http.paths.0.backend.service.port.name", "https")),
    ("volume-kind", "dev", "folder of the node", change(MLFLOW, f"{SERVER}volumes.1", {"name": "tmp", "hostPath": {"path": "/tmp"}})),
    # the network
    ("default-deny", "dev", "nothing is denied", without("NetworkPolicy/default-deny")),
    ("default-deny", "dev", "only what comes in is denied", change("NetworkPolicy/default-deny", "spec.policyTypes", ["Ingress"])),
    ("open-ray", "dev", "dashboard for MLflow", added(policy("ray-open", podSelector=RAY_PODS, policyTypes=["Ingress"], ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}], "ports": port(8265)}]))),
    ("open-ray", "dev/study", "GCS for the operator", change("NetworkPolicy/ray-dashboard", "spec.ingress.0.ports", port(6379))),
    ("open-ray", "dev/study", "Ray client for clients", change("NetworkPolicy/ray-dashboard", "spec.ingress.0.ports.-", port(10001)[0])),
    ("open-ingress", "dev/study", "Ray for everybody", change("NetworkPolicy/ray-internal", "spec.ingress", [{}])),
    ("open-ingress", "dev", "MLflow for the Internet", change("NetworkPolicy/mlflow", "spec.ingress.0.from.-", {"ipBlock": {"cidr": "0.0.0.0/0"}})),
    ("open-egress", "dev", "everything may go out", change("NetworkPolicy/mlflow-to-postgres", "spec.egress", [{}])),
    ("open-egress", "prod", "metadata service", change("NetworkPolicy/to-external-s3", "spec.egress.0.to.0.ipBlock", {"cidr": "0.0.0.0/0"})),
    ("open-peer", "dev/study", "dashboard for any namespace", change("NetworkPolicy/ray-dashboard", "spec.ingress.0.from.0.namespaceSelector", {})),
    ("selector", "dev/study", "operator misspelt", change("NetworkPolicy/ray-dashboard", "spec.ingress.0.from.0.podSelector.matchLabels", {"app.kubernetes.io/name": "kuberay"})),
    ("policy-type", "dev", "rules that count for nothing", change("NetworkPolicy/dns", "spec.policyTypes", ["Ingress"])),
    ("policy-type", "dev", "unknown policy type", change("NetworkPolicy/dns", "spec.policyTypes.-", "Outgress")),
    ("port", "dev", "port that is none", change("NetworkPolicy/mlflow", "spec.ingress.0.ports.-", port(99999)[0])),
    ("unreachable", "dev/study", "driver cut off from MLflow", without("NetworkPolicy/ray-head-mlflow")),
    ("unreachable", "dev", "MLflow cut off from Postgres", without("NetworkPolicy/postgres")),
    ("reachable", "dev/study", "workers that reach MLflow", lambda docs: [
        change("NetworkPolicy/ray-head-mlflow", "spec.podSelector", RAY_PODS)(docs),
        change("NetworkPolicy/mlflow", "spec.ingress.0.from.0.podSelector", RAY_PODS)(docs),
    ]),
    ("exposed", "dev", "MLflow on every node", change("Service/mlflow", "spec.type", "NodePort")),
    ("tls", "prod", "no TLS", change("Ingress/mlflow", "spec.tls", [])),
    # secrets
    ("secret-value", "dev", "password in a variable", change(MLFLOW, f"{SERVER}containers.0.env.-", {"name": "ADMIN_PASSWORD", "value": "x"})),
    ("secret-value", "dev", "Secret among the manifests", added({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {}})),
    ("secret-value", "dev", "password in an address", change(MLFLOW, f"{SERVER}containers.0.args.-", "--registry-store-uri=postgresql://mlflow:hunter2@postgres/mlflow")),
    ("secret-value", "dev", "password in a ConfigMap", lambda docs: next(each for each in docs if each["kind"] == "ConfigMap" and "basic_auth.ini" in each["data"])["data"].update({"basic_auth.ini": "[mlflow]\nadmin_password = hunter2\n"})),
    ("least-secrets", "dev/study", "worker that may tell MLflow", change(STUDY, f"{WORKER}containers.0.env.-", {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "mlflow-login", "key": "password"}}})),
    ("runtime-env", "dev/study", "variables in the runtime environment", change(STUDY, "spec.runtimeEnvYAML", "env_vars: {A: b}")),
    # studies, versions, images
    ("study-id", "dev/study", "a retry begins anew", entrypoint("study.id=first-study ", "")),
    ("study-id", "dev/study", "a retry is refused", entrypoint("study.id=", "study.resume=never study.id=")),
    ("entrypoint", "dev/study", "word that is none", entrypoint("study.id=", "study.idd=")),
    ("entrypoint", "dev/study", "job that is none", entrypoint("tune_shots.py", "tune_shot.py")),
    ("entrypoint", "dev/study", "list that a shell reads", entrypoint("study.id=", "study.shots=[1,2] study.id=")),
    ("entrypoint", "dev/study", "study file that is not mounted", entrypoint("/etc/ssprompt/", "/etc/")),
    ("storage", "dev/study", "results that go with the pod", entrypoint("s3://ssprompt/studies", "runs")),
    ("workers", "dev/study", "more workers than there may be", entrypoint("study.id=", "train.workers=9 study.id=")),
    ("workers", "dev/study", "GPUs that nobody has", entrypoint("study.id=", "train.gpus_per_worker=1 study.id=")),
    ("ray-version", "dev/study", "another Ray", change(STUDY, f"{CLUSTER}rayVersion", "2.59.0")),
    ("ray-version", "dev/study", "image of another Ray", change(STUDY, f"{WORKER}containers.0.image", "ssprompt:0.1.0-ray2.59.0-cpu")),
    ("mlflow-version", "dev", "another MLflow", change(MLFLOW, f"{SERVER}containers.0.image", "ssprompt-mlflow:0.1.0-mlflow3.1.0")),
    ("image", "dev", "latest", change("StatefulSet/postgres", f"{SERVER}containers.0.image", "postgres:latest")),
    ("image", "dev", "no tag", change("StatefulSet/postgres", f"{SERVER}containers.0.image", "postgres")),
    ("digest", "prod", "no digest", change(MLFLOW, f"{SERVER}containers.0.image", "registry.example.com/ssprompt-mlflow:0.1.0-mlflow3.17.2")),
    ("allowed-hosts", "dev/study", "MLflow that refuses the driver", entrypoint("http://mlflow:5000", "http://mlflow.ssprompt.svc.local:5000")),
    ("allowed-hosts", "dev", "MLflow for any host", change(MLFLOW, f"{SERVER}containers.0.env.4.value", "*")),
    ("allowed-hosts", "prod", "MLflow that refuses browsers", change("Ingress/mlflow", "spec.rules.0.host", "ml.example.com")),
    ("mlflow-auth", "dev", "MLflow without accounts", change(MLFLOW, f"{SERVER}containers.0.args.0", "--dev")),
    ("environment", "dev/study", "worker without an endpoint", change(STUDY, f"{WORKER}containers.0.env.4", GONE)),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def definitions() -> None:
    need_definitions()


@pytest.mark.parametrize(
    ("rule", "overlay", "change"),
    [(rule, overlay, change) for rule, overlay, _, change in MUTANTS],
    ids=[f"{rule}: {what}" for rule, _, what, _ in MUTANTS],
)
def test_a_mistake_is_refused_for_its_reason(rule: str, overlay: str, change: Change) -> None:
    mutant = documents(overlay)
    change(mutant)
    where = overlay.split("/")[0]
    reasons = validate(mutant, secret_values(where), pinned=where == "prod")
    assert rule in {reason.rule for reason in reasons}, [str(reason) for reason in reasons]
    # the mistake, and at most what follows from it
    assert len({reason.rule for reason in reasons}) <= 2, [str(reason) for reason in reasons]


def test_there_are_mutants_of_every_rule() -> None:
    rules = {rule for rule, *_ in MUTANTS}
    assert len(MUTANTS) >= 40
    assert len({what for _, _, what, _ in MUTANTS}) == len(MUTANTS)
    assert len(rules) >= 40, sorted(rules)
