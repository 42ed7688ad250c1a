"""Network policies: what they let through, what they should, and what they must not."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from k8s_reasons import Document, Pod, Reason, matches, name_of, pods

METADATA = ip_network("169.254.169.254/32")
"""Where clouds give credentials to whoever asks."""
GUARDED = {6379: "gcs", 8265: "dashboard", 10001: "client"}
CLIENT = {"ssprompt/ray-client": "true"}
RAY_HEAD = {"ssprompt/ray": "true", "ssprompt/role": "head", "ssprompt/s3": "true"}
OUTSIDE = {
    "kuberay-system": {"app.kubernetes.io/name": "kuberay-operator"},
    "monitoring": {"app.kubernetes.io/name": "prometheus"},
    "ingress-nginx": {"app.kubernetes.io/name": "ingress-nginx"},
    "kube-system": {"k8s-app": "kube-dns"},
}
"""Namespaces of others with their one kind of pod that has to do with ours."""


def network_reasons(documents: list[Document]) -> Iterator[Reason]:
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    all_pods = pods(documents)
    if not any(_denies_all(policy["spec"]) for policy in policies):
        yield Reason("default-deny", "NetworkPolicy", "no policy denies what no other allows")
    for policy in policies:
        yield from _policy(policy, all_pods)
    yield from _needed(documents, Allowed(policies), all_pods)


def _denies_all(spec: dict[str, Any]) -> bool:
    types = {"Ingress", "Egress"} <= set(spec.get("policyTypes") or [])
    return types and spec.get("podSelector") == {} and not {"ingress", "egress"} & set(spec)


def _policy(policy: Document, all_pods: list[Pod]) -> Iterator[Reason]:
    where, spec = name_of(policy), policy["spec"]
    for kind in spec.get("policyTypes") or []:
        if kind not in ("Ingress", "Egress"):
            yield Reason("policy-type", where, f"there is no policy type {kind}")
    for name, kind in (("ingress", "Ingress"), ("egress", "Egress")):
        if spec.get(name) and kind not in (spec.get("policyTypes") or []):
            yield Reason("policy-type", where, f"its {name} rules count for nothing")
    chosen = [pod for pod in all_pods if matches(spec.get("podSelector"), pod.labels)]
    if not chosen and "ray" not in where and "objectstore" not in where:
        yield Reason("selector", where, "it is about no pod")
    for rule in spec.get("ingress") or []:
        yield from _ingress(where, rule, chosen, all_pods)
    for rule in spec.get("egress") or []:
        yield from _egress(where, rule, chosen, all_pods)


def _ingress(
    where: str, rule: dict[str, Any], chosen: list[Pod], all_pods: list[Pod]
) -> Iterator[Reason]:
    peers, ports = rule.get("from") or [], _ports(rule)
    yield from _bad_ports(where, rule)
    if not peers:
        yield Reason("open-ingress", where, "it lets everybody in")
    for peer in peers:
        if "ipBlock" in peer:
            yield Reason("open-ingress", where, f"it lets {peer['ipBlock'].get('cidr')} in")
            continue
        ours = "namespaceSelector" not in peer
        yield from _peer(where, peer, all_pods)
        within = ours and all(
            pod.ray for pod in all_pods if matches(peer.get("podSelector"), pod.labels)
        )
        if within and peer.get("podSelector") not in ({}, {"matchLabels": CLIENT}):
            continue
        if any(pod.ray for pod in chosen) or "ray" in where:
            reached = set(GUARDED) if not ports else set(GUARDED) & ports
            operator = matches(peer.get("podSelector"), OUTSIDE["kuberay-system"])
            if operator or peer.get("podSelector") == {"matchLabels": CLIENT}:
                reached -= {8265}
            for port in sorted(reached):
                yield Reason("open-ray", where, f"it opens {port} ({GUARDED[port]})")
        elif not ports:
            yield Reason("open-ingress", where, "it opens every port")


def _egress(
    where: str, rule: dict[str, Any], chosen: list[Pod], all_pods: list[Pod]
) -> Iterator[Reason]:
    peers = rule.get("to") or []
    yield from _bad_ports(where, rule)
    if not peers:
        yield Reason("open-egress", where, "it lets everything out")
    for peer in peers:
        block = peer.get("ipBlock")
        if block is None:
            yield from _peer(where, peer, all_pods)
            continue
        excepted = [ip_network(each) for each in block.get("except") or []]
        inside = METADATA.subnet_of(ip_network(block["cidr"]))  # type: ignore[arg-type]
        if inside and not any(METADATA.subnet_of(each) for each in excepted):  # type: ignore[arg-type]
            yield Reason("open-egress", where, "it lets out to the metadata service")
        if not _ports(rule):
            yield Reason("open-egress", where, f"it lets every port out to {block['cidr']}")
        if any(pod.role == "worker" for pod in chosen) and 6443 in _ports(rule):
            yield Reason("open-egress", where, "workers reach the API server")


def _peer(where: str, peer: dict[str, Any], all_pods: list[Pod]) -> Iterator[Reason]:
    selector = peer.get("podSelector")
    if "namespaceSelector" in peer:
        labels = (peer["namespaceSelector"] or {}).get("matchLabels") or {}
        of = OUTSIDE.get(labels.get("kubernetes.io/metadata.name", ""))
        if of is None:
            yield Reason("open-peer", where, f"it is about the namespaces {labels}")
        elif selector is None or selector == {}:
            yield Reason("open-peer", where, "it is about every pod of a namespace of others")
        elif not matches(selector, of):
            yield Reason("selector", where, f"no pod there has the labels {selector}")
    elif selector == {}:
        yield Reason("open-peer", where, "it is about every pod of the namespace")
    elif selector != {"matchLabels": CLIENT}:
        ray = matches(selector, RAY_HEAD)
        if not ray and not any(matches(selector, pod.labels) for pod in all_pods):
            yield Reason("selector", where, f"no pod has the labels {selector}")


def _ports(rule: dict[str, Any]) -> set[int]:
    found: set[int] = set()
    for port in rule.get("ports") or []:
        if isinstance(port.get("port"), int):
            found |= set(range(port["port"], port.get("endPort", port["port"]) + 1))
    return found


def _bad_ports(where: str, rule: dict[str, Any]) -> Iterator[Reason]:
    for port in rule.get("ports") or []:
        number = port.get("port")
        if not isinstance(number, int) or not 0 < number < 65536:
            yield Reason("port", where, f"there is no port {number}")


class Allowed:
    """What a set of policies lets through between pods of one namespace."""

    def __init__(self, policies: list[Document]) -> None:
        self._specs = [policy["spec"] for policy in policies]

    def __call__(self, source: dict[str, str], target: dict[str, str], port: int) -> bool:
        return self._one("Egress", source, target, port) and self._one(
            "Ingress", target, source, port
        )

    def _one(self, kind: str, own: dict[str, str], other: dict[str, str], port: int) -> bool:
        rules, peers = ("ingress", "from") if kind == "Ingress" else ("egress", "to")
        about = [
            spec
            for spec in self._specs
            if kind in spec["policyTypes"] and matches(spec["podSelector"], own)
        ]
        return not about or any(
            (not rule.get("ports") or port in _ports(rule))
            and any(
                "namespaceSelector" not in peer and matches(peer.get("podSelector"), other)
                for peer in rule.get(peers) or []
            )
            for spec in about
            for rule in spec.get(rules) or []
        )


def _needed(documents: list[Document], allowed: Allowed, all_pods: list[Pod]) -> Iterator[Reason]:
    """Connections between our pods that have to be possible, and some that must not."""
    first: dict[str, Pod] = {}
    for pod in all_pods:
        first.setdefault(
            f"ray-{pod.role}" if pod.ray else pod.labels.get("app.kubernetes.io/name", ""), pod
        )
    inside = {
        document["metadata"]["name"] for document in documents if document["kind"] == "Service"
    }
    needed = [
        ("ray-head", "mlflow", 5000),
        ("ray-head", "ray-worker", 10002),
        ("ray-worker", "ray-head", 6379),
    ]
    if "postgres" in inside:
        needed.append(("mlflow", "postgres", 5432))
    if "objectstore" in inside:
        needed += [
            (name, "objectstore", 8333) for name in ("ray-head", "ray-worker", "mlflow", "buckets")
        ]
    forbidden = [
        ("ray-worker", "mlflow", 5000),
        ("ray-head", "postgres", 5432),
        ("mlflow", "ray-head", 8265),
        ("objectstore", "mlflow", 5000),
        ("mlflow", "objectstore", 9333),
        ("buckets", "mlflow", 5000),
    ]
    for rule, pairs, wanted in (("unreachable", needed, True), ("reachable", forbidden, False)):
        for source, target, port in pairs:
            if not {source, target} <= set(first):
                continue
            if allowed(first[source].labels, first[target].labels, port) is not wanted:
                yield Reason(rule, f"{source} to {target}", f"port {port}")
