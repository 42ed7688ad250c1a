"""Why a set of manifests is refused, and how their pods are walked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Reason:
    """A rule that is broken, where, and how."""

    rule: str
    where: str
    told: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.told}"


@dataclass(frozen=True)
class Pod:
    """A pod that a document would make.

    Attributes:
        where: Its document.
        role: head, worker or other.
        spec: The pod's spec.
        labels: Its labels.
        cluster: Of a Ray pod, the spec of its cluster; else None.
        group: Of a Ray worker, its group; else None.
    """

    where: str
    role: str
    spec: dict[str, Any]
    labels: dict[str, str]
    cluster: dict[str, Any] | None = None
    group: dict[str, Any] | None = None
    document: Document = field(default_factory=dict)

    @property
    def ray(self) -> bool:
        return self.cluster is not None

    def containers(self) -> Iterator[dict[str, Any]]:
        yield from self.spec.get("initContainers") or []
        yield from self.spec.get("containers") or []


def name_of(document: Document) -> str:
    return f"{document.get('kind')}/{(document.get('metadata') or {}).get('name')}"


def clusters(documents: list[Document]) -> Iterator[tuple[Document, dict[str, Any]]]:
    """Each document that makes a Ray cluster, with the cluster's spec."""
    for document in documents:
        spec = document.get("spec") or {}
        if document.get("kind") == "RayCluster":
            yield document, spec
        elif document.get("kind") == "RayJob" and spec.get("rayClusterSpec"):
            yield document, spec["rayClusterSpec"]


def pods(documents: list[Document]) -> list[Pod]:
    found = []
    for document in documents:
        if document.get("kind") in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            found.append(_pod(document, "other", document["spec"]["template"]))
    for document, cluster in clusters(documents):
        head = cluster.get("headGroupSpec") or {}
        found.append(_pod(document, "head", head.get("template") or {}, cluster))
        for group in cluster.get("workerGroupSpecs") or []:
            found.append(_pod(document, "worker", group.get("template") or {}, cluster, group))
    return found


def _pod(
    document: Document,
    role: str,
    template: dict[str, Any],
    cluster: dict[str, Any] | None = None,
    group: dict[str, Any] | None = None,
) -> Pod:
    where = name_of(document) + ("" if role == "other" else f" {role}")
    labels = (template.get("metadata") or {}).get("labels") or {}
    return Pod(where, role, template.get("spec") or {}, labels, cluster, group, document)


def matches(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod; an empty one takes all, none takes nothing."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions") or []:
        has, value = each["key"] in labels, labels.get(each["key"])
        values = each.get("values") or []
        if not {
            "In": has and value in values,
            "NotIn": not has or value not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }[each["operator"]]:
            return False
    return True
