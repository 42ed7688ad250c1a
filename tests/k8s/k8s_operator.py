"""What KubeRay's operator refuses, and what it accepts but which leaks, hangs or is unsafe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from k8s_reasons import Document, Reason, clusters, name_of

_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_POLICIES = ("Always", "IfNotPresent", "Never")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 47
FIRST_WITH_TOKENS = (2, 52)


def operator_reasons(documents: list[Document]) -> Iterator[Reason]:
    for document, cluster in clusters(documents):
        yield from _cluster(name_of(document), cluster)
        name = str(document["metadata"]["name"])
        if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            yield Reason("name", name_of(document), "is no short DNS name")
    for document in documents:
        if document.get("kind") == "RayJob":
            yield from _job(name_of(document), document.get("metadata") or {}, document["spec"])


def _cluster(where: str, cluster: dict[str, Any]) -> Iterator[Reason]:
    auth, version = cluster.get("authOptions") or {}, str(cluster.get("rayVersion") or "")
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield Reason("token-auth", where, "authOptions asks for no token")
    numbers = re.match(r"(\d+)\.(\d+)\.", version)
    if not numbers or (int(numbers[1]), int(numbers[2])) < FIRST_WITH_TOKENS:
        yield Reason("ray-version", where, f"rayVersion '{version}' knows no token")
    if (cluster.get("tlsOptions") or {}).get("enabled") is False:
        yield Reason("token-auth", where, "tlsOptions are turned off")
    yield from _autoscaler(where, cluster)
    head = cluster.get("headGroupSpec") or {}
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield Reason("head-work", where, 'the head has no num-cpus: "0", so it is given work')
    groups = cluster.get("workerGroupSpecs") or []
    names = [group.get("groupName") for group in groups]
    if len(set(names)) < len(names):
        yield Reason("groups", where, f"two groups have one name: {names}")
    for group in groups:
        yield from _group(f"{where} {group.get('groupName')}", group, cluster)
    for group in (head, *groups):
        template = group.get("template") or {}
        spec = template.get("spec") or {}
        for label in (template.get("metadata") or {}).get("labels") or {}:
            if label.startswith(("ray.io/", "app.kubernetes.io/")):
                yield Reason("operator-labels", where, f"{label} is the operator's")
        if not spec.get("containers"):
            yield Reason("containers", where, "a pod has no container")
        if cluster.get("enableInTreeAutoscaling") and spec.get("restartPolicy") != "Never":
            yield Reason("restart-policy", where, "autoscaler v2 asks for restartPolicy: Never")
        for each in spec.get("containers") or []:
            if each.get("imagePullPolicy", "IfNotPresent") not in _POLICIES:
                yield Reason("pull-policy", where, f"imagePullPolicy {each['imagePullPolicy']}")
            if any(one.get("name") == "RAY_enable_autoscaler_v2" for one in each.get("env") or []):
                yield Reason("autoscaler", where, "the variable of autoscaler v2 beside its option")
        params = group.get("rayStartParams") or {}
        if "labels" in params or (
            group.get("resources") and set(params) & {"num-cpus", "num-gpus"}
        ):
            yield Reason("start-params", where, "rayStartParams say what a field of the group says")


def _autoscaler(where: str, cluster: dict[str, Any]) -> Iterator[Reason]:
    options = cluster.get("autoscalerOptions") or {}
    if not cluster.get("enableInTreeAutoscaling"):
        if options:
            yield Reason("autoscaler", where, "autoscalerOptions without enableInTreeAutoscaling")
        return
    if options.get("version") != "v2":
        yield Reason("autoscaler", where, "autoscalerOptions.version is not v2")
    if options.get("imagePullPolicy", "IfNotPresent") not in _POLICIES:
        yield Reason("pull-policy", where, f"imagePullPolicy {options['imagePullPolicy']}")


def _group(where: str, group: dict[str, Any], cluster: dict[str, Any]) -> Iterator[Reason]:
    low, now, high = (group.get(f"{name}eplicas", 0) for name in ("minR", "r", "maxR"))
    if not low <= now <= high:
        yield Reason("replicas", where, f"minReplicas {low}, replicas {now}, maxReplicas {high}")
    if high < 1:
        yield Reason("replicas", where, "maxReplicas is 0")
    scales = cluster.get("enableInTreeAutoscaling")
    if scales and low:
        yield Reason("scale-to-zero", where, f"minReplicas is {low}")
    if scales and not group.get("idleTimeoutSeconds"):
        yield Reason("scale-to-zero", where, "there is no idleTimeoutSeconds")
    if not scales and "idleTimeoutSeconds" in group:
        yield Reason("autoscaler", where, "idleTimeoutSeconds without an autoscaler")
    if group.get("suspend"):
        yield Reason("suspend", where, "a suspended group")


def _job(where: str, metadata: dict[str, Any], spec: dict[str, Any]) -> Iterator[Reason]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield Reason("submission-mode", where, f"there is no submissionMode {mode}")
    elif mode != "SidecarMode":
        yield Reason("submission-mode", where, f"{mode} does not try again when the head is lost")
    for name in ("submitterPodTemplate", "submitterConfig"):
        if mode == "SidecarMode" and name in spec:
            yield Reason("submitter", where, f"SidecarMode takes no {name}")
    if spec.get("clusterSelector") or not spec.get("rayClusterSpec"):
        yield Reason("own-cluster", where, "it has no cluster of its own")
    if (spec.get("rayClusterSpec") or {}).get("authOptions", {}).get("enableK8sTokenAuth"):
        yield Reason("token-auth", where, "a RayJob takes no enableK8sTokenAuth")
    for name in ("entrypointNumCpus", "entrypointNumGpus", "entrypointResources"):
        if spec.get(name):
            yield Reason("driver-place", where, f"{name} sends the driver to a worker")
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if not isinstance(spec.get(name), int) or spec[name] <= 0:
            yield Reason("deadline", where, f"there is no {name}")
    if not isinstance(spec.get("backoffLimit"), int) or spec["backoffLimit"] < 1:
        yield Reason("retries", where, "backoffLimit lets nothing be tried again")
    environment = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}") or {}
    if environment.get("env_vars") or environment.get("pip"):
        yield Reason("runtime-env", where, "variables and packages belong in the pod and the image")
    queued = "kueue.x-k8s.io/queue-name" in (metadata.get("labels") or {})
    yield from _deletion(where, spec, queued)


def _deletion(where: str, spec: dict[str, Any], queued: bool) -> Iterator[Reason]:
    cluster, shutdown = spec.get("rayClusterSpec") or {}, spec.get("shutdownAfterJobFinishes")
    strategy = spec.get("deletionStrategy") or {}
    rules = strategy.get("deletionRules") or []
    if queued:
        if not shutdown:
            yield Reason("kueue", where, "Kueue asks for shutdownAfterJobFinishes: true")
        if cluster.get("enableInTreeAutoscaling"):
            yield Reason("kueue", where, "Kueue takes no autoscaler")
        if len(cluster.get("workerGroupSpecs") or []) > 7:
            yield Reason("kueue", where, "Kueue takes seven worker groups at most")
    if shutdown and rules:
        yield Reason("deletion", where, "deletionRules and shutdownAfterJobFinishes")
    if spec.get("suspend") and not shutdown:
        yield Reason("suspend", where, "suspend without shutdownAfterJobFinishes")
    if spec.get("ttlSecondsAfterFinished") and not shutdown:
        yield Reason("deletion", where, "ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if {"onSuccess", "onFailure"} & set(strategy):
        yield Reason("deletion", where, "onSuccess and onFailure are the former form")
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition, policy = rule.get("condition") or {}, rule.get("policy")
        states = {"jobStatus", "jobDeploymentStatus"} & set(condition)
        if len(states) != 1:
            yield Reason("deletion", where, f"a rule has {len(states)} states for {policy}")
            continue
        state = states.pop()
        if condition.get("ttlSeconds", 0) < 0:
            yield Reason("deletion", where, "ttlSeconds is below 0")
        if policy == "DeleteWorkers" and cluster.get("enableInTreeAutoscaling"):
            yield Reason("deletion", where, "DeleteWorkers does not go with the autoscaler")
        of_state = seen.setdefault((state, str(condition[state])), {})
        if policy in of_state:
            yield Reason("deletion", where, f"two rules for {policy} and {condition[state]}")
        of_state[str(policy)] = condition.get("ttlSeconds", 0)
    for times in seen.values():
        ordered = [times[policy] for policy in _ORDER if policy in times]
        if ordered != sorted(ordered):
            yield Reason("deletion", where, "what holds a thing goes before the thing")
    if not shutdown:
        for state in (
            ("jobStatus", "SUCCEEDED"), ("jobStatus", "FAILED"), ("jobDeploymentStatus", "Failed"),
        ):  # fmt: skip
            if not {"DeleteCluster", "DeleteSelf"} & set(seen.get(state, {})):
                yield Reason("cleanup", where, f"the cluster stays after {state[1]}")
