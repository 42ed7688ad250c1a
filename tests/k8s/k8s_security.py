"""Restricted containers, tokens, resources, images, spot nodes, and values of secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from k8s_reasons import Document, Pod, Reason, name_of, pods

_VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}
_SUFFIXES = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"://[^/\s:@]+:[^@\s]+@|AKIA[0-9A-Z]{16}|-----BEGIN|"
    r"(password|passwd|secret_?key|auth_?token)['\"]?\s*[:=]\s*['\"]?\w",
    re.IGNORECASE,
)
SPOT = {
    "karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType",
    "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority",
}  # fmt: skip


def quantity(text: Any) -> float:
    """A Kubernetes quantity as a number.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]{0,2})", str(text))
    if not match or match[2] not in _SUFFIXES:
        raise ValueError(f"'{text}' is no quantity")
    return float(match[1]) * _SUFFIXES[match[2]]


def security_reasons(documents: list[Document]) -> Iterator[Reason]:
    for pod in pods(documents):
        yield from _pod(pod)
        for container in pod.containers():
            where = f"{pod.where} {container.get('name')}"
            yield from _container(where, container, pod.spec.get("securityContext") or {})
            yield from _resources(where, container.get("resources") or {}, pod.ray)
            yield from _environment(where, container.get("env") or [])
        if pod.role == "head" and (pod.cluster or {}).get("enableInTreeAutoscaling"):
            options, where = (
                (pod.cluster or {}).get("autoscalerOptions") or {},
                f"{pod.where} autoscaler",
            )
            # nothing of the pod is relied on: the operator adds this container
            yield from _container(where, options, {"runAsUser": 1000})
            yield from _resources(where, options.get("resources") or {}, True)
    for document in documents:
        yield from _values(document)
        if document.get("kind") == "Namespace":
            yield from _namespace(document)


def _pod(pod: Pod) -> Iterator[Reason]:
    spec, where = pod.spec, pod.where
    for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        if spec.get(name):
            yield Reason("host", where, f"{name} is set")
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod.containers()]
    room = sum(_number(limit.get("ephemeral-storage", 0)) for limit in limits)
    sizes = 0.0
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if kinds - _VOLUMES:
            yield Reason("volume-kind", where, f"{volume.get('name')} is a {kinds}")
        if "emptyDir" in volume:
            sizes += _number((volume["emptyDir"] or {}).get("sizeLimit", 0))
            if not (volume["emptyDir"] or {}).get("sizeLimit"):
                yield Reason("ephemeral", where, f"{volume['name']} has no sizeLimit")
    if sizes > room:
        yield Reason("ephemeral", where, "its emptyDirs together are larger than its limit")
    scales = pod.role == "head" and (pod.cluster or {}).get("enableInTreeAutoscaling")
    if not scales and spec.get("automountServiceAccountToken") is not False:
        yield Reason("account-token", where, "a service account's token is mounted for nothing")
    if scales and spec.get("automountServiceAccountToken") is False:
        yield Reason("account-token", where, "the autoscaler needs the token")
    yield from _spot(pod)


def _spot(pod: Pod) -> Iterator[Reason]:
    tolerated = {
        each.get("key") for each in pod.spec.get("tolerations") or [] if each.get("key") in SPOT
    }
    everything = any(
        each.get("operator") == "Exists" and not each.get("key")
        for each in pod.spec.get("tolerations") or []
    )
    if pod.role != "worker" and (tolerated or everything):
        yield Reason("spot", pod.where, "it may run on a spot node")
    if pod.role != "head":
        return
    affinity = ((pod.spec.get("affinity") or {}).get("nodeAffinity")) or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    for term in terms:
        kept = {
            each["key"]
            for each in term.get("matchExpressions") or []
            if each.get("operator") == "NotIn"
        }
        if kept < SPOT:
            yield Reason("spot", pod.where, f"it is not kept off nodes with {sorted(SPOT - kept)}")


def _container(where: str, container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[Reason]:
    own = container.get("securityContext") or {}
    both = {**of_pod, **own}
    capabilities = own.get("capabilities") or {}
    if own.get("privileged"):
        yield Reason("privileged", where, "it is privileged")
    if own.get("allowPrivilegeEscalation") is not False:
        yield Reason("escalation", where, "allowPrivilegeEscalation is not false")
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield Reason("capabilities", where, "it keeps or adds capabilities")
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") in (0, None):
        yield Reason("root", where, "it may run as root")
    if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield Reason("seccomp", where, "it has no seccomp profile")
    if own.get("readOnlyRootFilesystem") is not True:
        yield Reason("read-only", where, "its root file system can be written")
    if own.get("procMount", "Default") != "Default":
        yield Reason("host", where, "procMount")
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield Reason("host", where, f"hostPort {port['hostPort']}")


def _resources(where: str, resources: dict[str, Any], ray: bool) -> Iterator[Reason]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name in ("cpu", "memory", "ephemeral-storage"):
        for kind, given in (("request", requests), ("limit", limits)):
            if name not in given:
                yield Reason("resources", where, f"there is no {kind} of {name}")
    for name in sorted(set(requests) | set(limits)):
        try:
            low, high = quantity(requests.get(name, 0)), quantity(limits.get(name, "1000Ti"))
        except ValueError as error:
            yield Reason("quantity", where, f"{name}: {error}")
            continue
        if low > high:
            yield Reason("resources", where, f"the request of {name} is above its limit")
        elif low != high and ((ray and name == "memory") or "/" in name):
            yield Reason("resources", where, f"request and limit of {name} differ")


def _number(text: Any) -> float:
    try:
        return quantity(text)
    except ValueError:
        # told where the resources are looked at
        return 0.0


def _environment(where: str, variables: list[dict[str, Any]]) -> Iterator[Reason]:
    names = [variable.get("name") for variable in variables]
    for name in {name for name in names if names.count(name) > 1}:
        yield Reason("environment", where, f"{name} is set twice")
    for variable in variables:
        if "value" in variable and _SECRET_NAME.search(str(variable.get("name"))):
            yield Reason("secret-value", where, f"{variable['name']} has its value here")


def _values(document: Document) -> Iterator[Reason]:
    where = name_of(document)
    if document.get("kind") == "Secret":
        yield Reason("secret-value", where, "a Secret is among the manifests")
    for text in _texts(document):
        if _SECRET_TEXT.search(text):
            # what was found is not repeated
            yield Reason("secret-value", where, "a text looks like a secret")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        # comments of a file in a ConfigMap tell what is elsewhere
        yield "\n".join(line for line in value.splitlines() if not line.strip().startswith("#"))


def _namespace(document: Document) -> Iterator[Reason]:
    labels = document["metadata"].get("labels") or {}
    if labels.get("pod-security.kubernetes.io/enforce") not in ("baseline", "restricted"):
        yield Reason("pod-security", name_of(document), "nothing is enforced")
    for name in ("warn", "audit"):
        if labels.get(f"pod-security.kubernetes.io/{name}") != "restricted":
            yield Reason("pod-security", name_of(document), f"{name} is not restricted")
