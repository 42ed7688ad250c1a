"""Every name that one document has of another: it has to be there, with the key that is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s_reasons import Document, Pod, Reason, clusters, matches, name_of, pods


def reference_reasons(
    documents: list[Document], secrets: Mapping[str, Mapping[str, str]]
) -> Iterator[Reason]:
    """Reasons about references.

    Args:
        documents: All of an environment.
        secrets: Name -> keys of the Secrets that are made beside the manifests.
    """
    known = _Known(documents, secrets)
    all_pods = pods(documents)
    for pod in all_pods:
        yield from known.pod(pod)
    for document, cluster in clusters(documents):
        name = (cluster.get("authOptions") or {}).get("secretName")
        if name:
            yield from known.secret(name_of(document), name, "auth_token")
    for document in documents:
        yield from known.document(document, all_pods)


class _Known:
    def __init__(self, documents: list[Document], secrets: Mapping[str, Mapping[str, str]]) -> None:
        self._secrets = {name: set(keys) for name, keys in secrets.items()}
        self._named: dict[str, dict[str, Document]] = {}
        for document in documents:
            self._named.setdefault(document["kind"], {})[document["metadata"]["name"]] = document

    def secret(self, where: str, name: str, key: str | None) -> Iterator[Reason]:
        if name not in self._secrets:
            yield Reason("reference", where, f"there is no Secret {name}")
        elif key is not None and key not in self._secrets[name]:
            yield Reason("reference", where, f"the Secret {name} has no key {key}")

    def config(self, where: str, name: str, key: str | None) -> Iterator[Reason]:
        found = self._named.get("ConfigMap", {}).get(name)
        if found is None:
            yield Reason("reference", where, f"there is no ConfigMap {name}")
        elif key is not None and key not in (found.get("data") or {}):
            yield Reason("reference", where, f"the ConfigMap {name} has no key {key}")

    def pod(self, pod: Pod) -> Iterator[Reason]:
        account = pod.spec.get("serviceAccountName")
        if account and account not in self._named.get("ServiceAccount", {}):
            yield Reason("reference", pod.where, f"there is no ServiceAccount {account}")
        volumes = {volume.get("name") for volume in pod.spec.get("volumes") or []}
        claims = {
            each["metadata"]["name"]
            for each in pod.document["spec"].get("volumeClaimTemplates") or []
        }
        for volume in pod.spec.get("volumes") or []:
            if "configMap" in volume:
                yield from self.config(pod.where, volume["configMap"].get("name"), None)
            if "secret" in volume:
                yield from self.secret(pod.where, volume["secret"].get("secretName"), None)
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim and claim not in self._named.get("PersistentVolumeClaim", {}):
                yield Reason("reference", pod.where, f"there is no PersistentVolumeClaim {claim}")
        mounting = list(pod.containers())
        if pod.role == "head" and (pod.cluster or {}).get("autoscalerOptions"):
            mounting.append((pod.cluster or {})["autoscalerOptions"])
        used = set()
        for container in mounting:
            where = f"{pod.where} {container.get('name', 'autoscaler')}"
            for mount in container.get("volumeMounts") or []:
                used.add(mount.get("name"))
                if mount.get("name") not in volumes | claims:
                    yield Reason("volume", where, f"there is no volume {mount.get('name')}")
            yield from self._variables(where, container)
            ports = {port.get("name") for port in container.get("ports") or []}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for action in ("httpGet", "tcpSocket"):
                    port = ((container.get(probe) or {}).get(action) or {}).get("port")
                    if isinstance(port, str) and port not in ports:
                        yield Reason("port", where, f"{probe} asks the port {port}")
        for name in (volumes | claims) - used:
            yield Reason("volume", pod.where, f"the volume {name} is mounted nowhere")

    def _variables(self, where: str, container: dict[str, Any]) -> Iterator[Reason]:
        for variable in container.get("env") or []:
            source = variable.get("valueFrom") or {}
            for kind, check in (("secretKeyRef", self.secret), ("configMapKeyRef", self.config)):
                if kind in source:
                    yield from check(where, source[kind].get("name"), source[kind].get("key"))
        for source in container.get("envFrom") or []:
            if "configMapRef" in source:
                yield from self.config(where, source["configMapRef"].get("name"), None)
            if "secretRef" in source:
                yield from self.secret(where, source["secretRef"].get("name"), None)

    def document(self, document: Document, all_pods: list[Pod]) -> Iterator[Reason]:
        kind, where, spec = document["kind"], name_of(document), document.get("spec") or {}
        if kind in ("Deployment", "StatefulSet"):
            labels = (spec["template"].get("metadata") or {}).get("labels") or {}
            if not matches(spec.get("selector"), labels):
                yield Reason("selector", where, "its selector does not match its own pods")
        if kind == "StatefulSet" and spec.get("serviceName") not in self._named.get("Service", {}):
            yield Reason("reference", where, f"there is no Service {spec.get('serviceName')}")
        if kind == "Service":
            yield from self._service(where, spec, all_pods)
        if kind == "PodMonitor":
            yield from self._monitor(where, spec, all_pods)
        if kind == "Ingress":
            yield from self._ingress(where, document, spec)

    def _service(self, where: str, spec: dict[str, Any], all_pods: list[Pod]) -> Iterator[Reason]:
        if spec.get("type", "ClusterIP") != "ClusterIP" or spec.get("externalIPs"):
            yield Reason("exposed", where, "it can be reached from outside the cluster")
        chosen = [
            pod
            for pod in all_pods
            if matches({"matchLabels": spec.get("selector") or {}}, pod.labels)
        ]
        if not spec.get("selector") or not chosen:
            yield Reason("selector", where, "its selector matches no pod")
        ports = _ports(chosen)
        for port in spec.get("ports") or []:
            target = port.get("targetPort", port.get("port"))
            if chosen and target not in {*ports, *ports.values()}:
                yield Reason("port", where, f"no pod has the port {target}")

    def _monitor(self, where: str, spec: dict[str, Any], all_pods: list[Pod]) -> Iterator[Reason]:
        chosen = [pod for pod in all_pods if matches(spec.get("selector"), pod.labels)]
        if not chosen and "ray" not in where:
            yield Reason("selector", where, "its selector matches no pod")
        for endpoint in spec.get("podMetricsEndpoints") or []:
            if chosen and endpoint.get("port") not in _ports(chosen):
                yield Reason("port", where, f"no pod has the port {endpoint.get('port')}")
            for part in ("username", "password"):
                login = (endpoint.get("basicAuth") or {}).get(part)
                if login:
                    yield from self.secret(where, login.get("name"), login.get("key"))

    def _ingress(self, where: str, document: Document, spec: dict[str, Any]) -> Iterator[Reason]:
        secured = {host for each in spec.get("tls") or [] for host in each.get("hosts") or []}
        issued = "cert-manager.io/cluster-issuer" in (document["metadata"].get("annotations") or {})
        for each in spec.get("tls") or []:
            if not issued:
                yield from self.secret(where, each.get("secretName"), "tls.key")
        for rule in spec.get("rules") or []:
            if rule.get("host") not in secured:
                yield Reason("tls", where, f"{rule.get('host')} has no TLS")
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = self._named.get("Service", {}).get(backend["name"])
                if service is None:
                    yield Reason("reference", where, f"there is no Service {backend['name']}")
                elif backend["port"].get("name", backend["port"].get("number")) not in {
                    value
                    for port in service["spec"]["ports"]
                    for value in (port["name"], port["port"])
                }:
                    yield Reason("port", where, f"the Service has no port {backend['port']}")


def _ports(chosen: list[Pod]) -> dict[str, int]:
    return {
        port.get("name"): port.get("containerPort")
        for pod in chosen
        for container in pod.containers()
        for port in container.get("ports") or []
    }
