"""What the manifests say of studies: entrypoints, identity, versions, images, MLflow's address."""

from __future__ import annotations

import functools
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from k8s_reasons import Document, Pod, Reason, clusters, name_of, pods
from samples import ROOT, STUDIES

from ssprompt_core.errors import UserError
from ssprompt_platform.config import Config, load_config

PLACE = "/srv/ssprompt/"
"""Where the image keeps what is at the root of this project."""


def locked(package: str) -> str:
    """The version of a package in the lock file."""
    match = re.search(
        rf"^{re.escape(package)}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M
    )
    assert match, package
    return match[1]


def study_reasons(documents: list[Document], pinned: bool) -> Iterator[Reason]:
    """Reasons about studies.

    Args:
        documents: All of an environment.
        pinned: Whether images have to be named by digest.
    """
    for document in documents:
        if document["kind"] == "RayJob":
            yield from _job(document, documents)
    for document, cluster in clusters(documents):
        if str(cluster.get("rayVersion")) != locked("ray"):
            yield Reason(
                "ray-version",
                name_of(document),
                f"{cluster.get('rayVersion')}, not {locked('ray')}",
            )
    for pod in pods(documents):
        for container in pod.containers():
            yield from _image(
                f"{pod.where} {container.get('name')}", str(container.get("image")), pod.ray, pinned
            )
        yield from _login(pod)
    yield from _hosts(documents)


def _job(document: Document, documents: list[Document]) -> Iterator[Reason]:
    where, spec = name_of(document), document["spec"]
    try:
        program, words = program_of(spec)
    except ValueError as error:
        yield Reason("entrypoint", where, str(error))
        return
    if not program.is_file():
        yield Reason("entrypoint", where, f"{program} is not there")
        return
    keys = [word.partition("=")[0] for word in words]
    for key in {key for key in keys if keys.count(key) > 1}:
        yield Reason("entrypoint", where, f"{key} is given twice")
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    try:
        config = _config(tuple(words), tuple(sorted(mounted(head, documents).items())))
    except UserError as error:
        yield Reason("entrypoint", where, str(error))
        return
    except KeyError as error:
        yield Reason("entrypoint", where, f"{error.args[0]} is mounted nowhere")
        return
    if program.name == "tune_shots.py" and not config.study.id:
        yield Reason("study-id", where, "a retry would begin another study: study.id is not given")
    if config.study.resume == "never":
        yield Reason("study-id", where, "a retry would be refused: study.resume is never")
    if not config.storage.root.startswith("s3://"):
        yield Reason("storage", where, f"{config.storage.root} goes with the pod")
    if program.name == "tune_shots.py" and not config.tracking.uri:
        yield Reason("tracking", where, "tracking.uri is not given")
    groups = (spec.get("rayClusterSpec") or {}).get("workerGroupSpecs") or []
    largest = sum(group.get("maxReplicas", 0) for group in groups)
    if not 0 < config.train.workers <= largest:
        yield Reason("workers", where, f"train.workers is {config.train.workers} of {largest}")
    if config.train.gpus_per_worker and not any("nvidia.com/gpu" in str(group) for group in groups):
        yield Reason("workers", where, "it asks for GPUs that no group has")


def program_of(spec: dict[str, Any]) -> tuple[Path, list[str]]:
    """The file of this project that an entrypoint runs, and its words.

    Raises:
        ValueError: It is something else, or a shell would change a word.
    """
    text = str(spec.get("entrypoint") or "")
    if re.search(r"[][*?${}~`<>|&;()!\n\\]", text):
        raise ValueError("a shell between here and there would read some of it itself")
    words = shlex.split(text)
    if words[:1] != ["python"] or len(words) < 2 or not words[1].startswith(PLACE):
        raise ValueError(f"'{text[:60]}' runs no job of this project by its place in the image")
    return ROOT / words[1].removeprefix(PLACE), words[2:]


@functools.lru_cache(maxsize=64)
def _config(words: tuple[str, ...], files: tuple[tuple[str, str], ...]) -> Config:
    with real_files(words, dict(files)) as given:
        return load_config(given, STUDIES)


@contextmanager
def real_files(words: Sequence[str], files: Mapping[str, str]) -> Iterator[list[str]]:
    """The words of an entrypoint, the mounted files that they name being real ones meanwhile.

    Raises:
        KeyError: A word names a file that no volume has.
    """
    with tempfile.TemporaryDirectory() as folder:
        changed = []
        for word in words:
            key, _, value = word.partition("=")
            if value.startswith("/"):
                path = Path(folder) / Path(value).name
                path.write_text(files[value])
                word = f"{key}={path}"
            changed.append(word)
        yield changed


def mounted(pod: dict[str, Any], documents: list[Document]) -> dict[str, str]:
    """Path -> text of the files that ConfigMaps put into the first container of a pod."""
    configs = {
        each["metadata"]["name"]: each["data"] for each in documents if each["kind"] == "ConfigMap"
    }
    volumes = {each["name"]: each for each in pod.get("volumes") or []}
    found = {}
    for mount in pod["containers"][0].get("volumeMounts") or []:
        name = (volumes.get(mount["name"], {}).get("configMap") or {}).get("name")
        for key, text in configs.get(name, {}).items():
            found[f"{mount['mountPath']}/{key}"] = text
    return found


def _image(where: str, image: str, ray: bool, pinned: bool) -> Iterator[Reason]:
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if (not tag and not digest) or tag == "latest":
        yield Reason("image", where, f"{image} may be another one tomorrow")
    if pinned and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        yield Reason("digest", where, f"{image} is not pinned by its digest")
    if ray and f"ray{locked('ray')}-" not in tag:
        yield Reason("ray-version", where, f"the image {image} is not of Ray {locked('ray')}")
    if "ssprompt-mlflow" in name and f"mlflow{locked('mlflow')}" not in tag:
        yield Reason("mlflow-version", where, f"{image} is not of MLflow {locked('mlflow')}")


def _login(pod: Pod) -> Iterator[Reason]:
    read = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for container in pod.containers()
        for variable in container.get("env") or []
        if "secretKeyRef" in (variable.get("valueFrom") or {})
    }
    own = {
        "head": {"s3-studies", "mlflow-login"},
        "worker": {"s3-studies"},
        "mlflow": {"mlflow-login", "mlflow-session", "postgres-login", "s3-mlflow"},
        "postgres": {"postgres-login"},
        "objectstore": set(),
        "buckets": {"s3-admin"},
    }[pod.role if pod.ray else pod.labels.get("app.kubernetes.io/name", "")]
    if read - own:
        yield Reason("least-secrets", pod.where, f"it reads {sorted(read - own)}")
    variables = {
        variable["name"]
        for container in pod.containers()
        for variable in container.get("env") or []
    }
    needed = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION",
              "AWS_DEFAULT_REGION", "SSPROMPT_CACHE"}  # fmt: skip
    if pod.role == "head":
        needed |= {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    if pod.ray and needed - variables:
        yield Reason("environment", pod.where, f"it lacks {sorted(needed - variables)}")


def mlflow(documents: list[Document]) -> dict[str, Any]:
    """The container of MLflow's server."""
    deployment = next(each for each in documents if name_of(each) == "Deployment/mlflow")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def allowed_hosts(container: Mapping[str, Any]) -> set[str]:
    values = {each["name"]: each.get("value", "") for each in container.get("env") or []}
    return set(values.get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(",")) - {""}


def _hosts(documents: list[Document]) -> Iterator[Reason]:
    where, container = "Deployment/mlflow", mlflow(documents)
    hosts = allowed_hosts(container)
    if not hosts or any("*" in host for host in hosts):
        yield Reason("allowed-hosts", where, "MLFLOW_SERVER_ALLOWED_HOSTS names no hosts, or all")
        return
    if "--app-name=basic-auth" not in (container.get("args") or []):
        yield Reason("mlflow-auth", where, "anybody may use it")
    for host in sorted(used_hosts(documents) - hosts):
        yield Reason("allowed-hosts", where, f"{host} is used, but not allowed")


def used_hosts(documents: list[Document]) -> set[str]:
    """Hosts, with their ports, under which MLflow is asked; a port-forward is one of them."""
    used = {"localhost:5000", "127.0.0.1:5000"}
    for document in documents:
        spec = document.get("spec") or {}
        if document["kind"] == "RayJob":
            for uri in re.findall(r"tracking\.uri=(\S+)", str(spec.get("entrypoint"))):
                used.add(urlsplit(uri).netloc)
        if document["kind"] == "Ingress":
            used |= {rule["host"] for rule in spec["rules"]}
        if document["kind"] == "PodMonitor" and document["metadata"]["name"] == "mlflow":
            for endpoint in spec["podMetricsEndpoints"]:
                used |= {
                    each["replacement"]
                    for each in endpoint.get("relabelings") or []
                    if each.get("targetLabel") == "__address__"
                }
    return used
