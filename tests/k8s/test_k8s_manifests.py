"""The manifests as they are: valid in each environment, and true to what the platform needs."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_network import Allowed
from k8s_reasons import Document, clusters, name_of, pods
from k8s_render import (
    GIVEN,
    JOBS,
    K8S,
    OVERLAYS,
    documents,
    rendered,
    run_secrets,
    secret_values,
)
from k8s_schemas import need_definitions, schema_reasons
from k8s_security import quantity
from k8s_study import allowed_hosts, locked, mlflow, mounted, program_of, real_files, used_hosts
from k8s_validate import validate
from rich.console import Console
from samples import ROOT, STUDIES

from ssprompt_platform.capacity import VARIABLE
from ssprompt_platform.encode_only import encode_study
from ssprompt_platform.launch import run_study


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid(overlay: str) -> None:
    need_definitions()
    where = overlay.split("/")[0]
    reasons = validate(documents(overlay), secret_values(where), pinned=where == "prod")
    assert not reasons, "\n".join(str(reason) for reason in reasons)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_platform_starts_no_cluster_and_a_job_starts_one(overlay: str) -> None:
    own = [each for each in yaml.safe_load_all(rendered(overlay)) if each]
    started = [name_of(document) for document, _ in clusters(own)]
    assert started == {
        "study": ["RayJob/study"],
        "study-kueue": ["RayJob/study"],
        "encode": ["RayJob/encode"],
        "interactive": ["RayCluster/interactive"],
    }.get(overlay.partition("/")[2], [])


def job_of(overlay: str) -> tuple[Document, list[Document]]:
    found = documents(overlay)
    return next(each for each in found if each["kind"] == "RayJob"), found


@pytest.mark.parametrize("overlay", JOBS)
def test_the_entrypoint_of_a_job_runs_as_the_manifest_says(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_server: object
) -> None:
    """A dry run of the words, with the head's variables and a real bucket, on fewer images."""
    job, found = job_of(overlay)
    spec = job["spec"]
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    variables = head_variables(spec, found, secret_values(overlay.split("/")[0]))
    # of the manifest's variables, those that name what only a cluster has
    server = s3_server.environment  # type: ignore[attr-defined]
    variables |= {name: server[name] for name in server} | {
        "HOME": str(tmp_path),
        "SSPROMPT_CACHE": str(tmp_path / "cache"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program, words = program_of(spec)
    bucket = next(re.search(r"s3://([^/]+)", word) for word in words if "storage.root" in word)
    assert bucket is not None
    client = s3_server.client()  # type: ignore[attr-defined]
    if bucket[1] not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket[1])
    # other tests may have used a bucket of this name
    before = objects(client, bucket[1])
    group = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    grown = {
        name: group["maxReplicas"] * float(limits.get(key, 0))
        for name, key in (("CPU", "cpu"), ("GPU", "nvidia.com/gpu"))
    }
    # the plan is for the cluster of the manifest, not for this machine
    monkeypatch.setattr("ssprompt_platform.prepare.local_machine", lambda: grown)
    said = io.StringIO()

    def run(given: list[str]) -> None:
        given = [*given, "study.dry_run=true", "data.train_images=40", "data.test_images=4"]
        if program.name == "encode.py":
            assert encode_study(given, STUDIES, Console(file=said)).encoder_calls > 0
        else:
            run_study(given, STUDIES, Console(file=said, width=200))
            assert "study first-study (dry run, nothing is written)" in said.getvalue()
            assert ("1 GPUs" in said.getvalue()) is overlay.startswith("prod")

    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    with real_files(words, mounted(head, found)) as given:
        run(given)
    assert objects(client, bucket[1]) == before


def objects(client: Any, bucket: str) -> set[tuple[str, str]]:
    """Name and ETag of all objects of a bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {(each["Key"], each["ETag"]) for page in pages for each in page.get("Contents", [])}


def head_variables(
    spec: Document, found: list[Document], secrets: dict[str, dict[str, str]]
) -> dict[str, str]:
    """The variables of a head, as Kubernetes would resolve them."""
    configs = {each["metadata"]["name"]: each for each in found if each["kind"] == "ConfigMap"}
    container = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    values = {}
    for each in container["env"]:
        source = each.get("valueFrom") or {}
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]
            values[each["name"]] = secrets[key["name"]][key["key"]]
        elif "configMapKeyRef" in source:
            key = source["configMapKeyRef"]
            values[each["name"]] = configs[key["name"]]["data"][key["key"]]
        else:
            values[each["name"]] = each["value"]
    return values


def test_the_wait_for_workers_is_a_variable_that_the_platform_reads() -> None:
    job, found = job_of("dev/study")
    variables = head_variables(job["spec"], found, secret_values("dev"))
    assert float(variables[VARIABLE]) < job["spec"]["preRunningDeadlineSeconds"]


def test_retries_mean_the_same_study() -> None:
    words = [shlex.split(job_of(each)[0]["spec"]["entrypoint"]) for each in JOBS if "study" in each]
    ids = {word for each in words for word in each if word.startswith("study.id=")}
    assert ids == {"study.id=first-study"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_version_of_ray(overlay: str) -> None:
    versions = set(re.findall(r"ray(\d+\.\d+\.\d+)-", rendered(overlay)))
    versions |= set(re.findall(r"rayVersion: (\S+)", rendered(overlay)))
    assert versions <= {locked("ray")}
    assert "latest" not in rendered(overlay)


def test_production_has_gpus_from_zero_on_spot_nodes_and_servers_outside() -> None:
    job, found = job_of("prod/study")
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    container = group["template"]["spec"]["containers"][0]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "-cuda@sha256:" in container["image"]
    tolerated = {each["key"] for each in group["template"]["spec"]["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= tolerated
    names = {name_of(each) for each in found}
    assert not {"StatefulSet/postgres", "StatefulSet/objectstore"} & names
    configs = {each["metadata"]["name"].partition("-h")[0]: each for each in found}
    assert configs["s3-client"]["data"]["AWS_ENDPOINT_URL"].startswith("https://")
    postgres = next(each for each in found if "postgres-client" in each["metadata"]["name"])
    assert postgres["data"]["PGSSLMODE"] == "verify-full"


def test_a_laptop_has_room_for_all_of_it() -> None:
    # what the operator's submitter and kind's own pods ask for
    asked = {"cpu": 0.5 + 0.95, "memory": (200 + 300) * 2.0**20}
    found = documents("dev/study")
    (_, cluster), *_ = clusters(found)
    requests = [cluster["autoscalerOptions"]["resources"]["requests"]]
    for pod in pods(found):
        times = pod.group["maxReplicas"] if pod.group else 1
        requests += [each["resources"]["requests"] for each in pod.spec["containers"]] * times
    for request in requests:
        for name in asked:
            asked[name] += quantity(request[name])
    assert asked["cpu"] <= 4
    assert asked["memory"] <= 13 * 2**30


def test_policies_let_through_what_a_study_needs_and_no_more() -> None:
    found = documents("dev/study")
    allowed = Allowed([each for each in found if each["kind"] == "NetworkPolicy"])
    labels = {}
    for pod in pods(found):
        labels[pod.role if pod.ray else pod.labels["app.kubernetes.io/name"]] = pod.labels
    assert allowed(labels["head"], labels["mlflow"], 5000)
    assert not allowed(labels["worker"], labels["mlflow"], 5000)
    assert allowed(labels["worker"], labels["head"], 6379)
    assert allowed(labels["worker"], labels["objectstore"], 8333)
    assert not allowed(labels["worker"], labels["postgres"], 5432)
    stranger = {"app": "stranger"}
    for port in (6379, 8265, 10001, 8080):
        assert not allowed(stranger, labels["head"], port)
    client = {"ssprompt/ray-client": "true"}
    # a policy of its own would let such a pod out; Ray lets it in
    assert Allowed([each for each in found if name_of(each) == "NetworkPolicy/ray-dashboard"])(
        client, labels["head"], 8265
    )


@pytest.mark.parametrize("overlay", ["dev/study", "prod/study"])
def test_mlflow_allows_each_host_that_is_used(overlay: str) -> None:
    found = documents(overlay)
    hosts = allowed_hosts(mlflow(found))
    assert used_hosts(found) <= hosts
    assert {"mlflow:5000", "localhost:5000", "mlflow.ssprompt.svc.cluster.local:5000"} <= hosts


def test_the_dashboard_is_one_for_grafana() -> None:
    config = next(each for each in documents("prod") if "dashboard" in each["metadata"]["name"])
    assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert "panels" in json.loads(config["data"]["ssprompt.json"])


@pytest.mark.parametrize("where", ["dev", "prod"])
def test_secrets_are_random_and_their_values_are_on_no_command_line(where: str) -> None:
    first, second = secret_values(where), None
    secret_values.cache_clear()
    second = secret_values(where)
    made = [name for name in first if where == "dev" or not name.startswith(("s3-", "postgres"))]
    for name in made:
        for key, value in first[name].items():
            if key != "username":
                assert len(value) >= 20
                assert value != second[name][key], (name, key)
    assert not re.search(r"kubectl.*--from-literal", (K8S / "secrets.sh").read_text())


def test_the_servers_keys_are_those_of_the_clients() -> None:
    values = secret_values("dev")
    identities = json.loads(values["objectstore-identities"]["s3.json"])["identities"]
    for each in identities:
        keys = each["credentials"][0]
        client = values[f"s3-{each['name']}"]
        assert (keys["accessKey"], keys["secretKey"]) == (
            client["AWS_ACCESS_KEY_ID"],
            client["AWS_SECRET_ACCESS_KEY"],
        )
    rights = {each["name"]: each["actions"] for each in identities}
    assert all(action.endswith(":ssprompt") for action in rights["studies"])
    assert all(action.endswith(":mlflow") for action in rights["mlflow"])


def test_given_secrets_arrive_unchanged() -> None:
    values = secret_values("prod")
    assert values["postgres-login"]["password"] == GIVEN["PGPASSWORD"]
    assert values["s3-studies"]["AWS_SECRET_ACCESS_KEY"] == GIVEN["AWS_SECRET_ACCESS_KEY"]


def test_secrets_that_are_missing_or_half_there_are_a_mistake(tmp_path: Path) -> None:
    run, made = run_secrets("prod", tmp_path / "a")
    assert run.returncode == 2
    assert "error: AWS_ACCESS_KEY_ID is not set" in run.stderr
    assert not made
    run, _ = run_secrets("dev", tmp_path / "b", there=("s3-admin",))
    assert run.returncode == 2
    assert "kubectl delete secret s3-admin --namespace ssprompt" in run.stderr
    run, _ = run_secrets("staging", tmp_path / "c")
    assert run.returncode == 2
    assert (K8S / "secrets.sh").stat().st_mode & stat.S_IXUSR


def test_secrets_are_valid_objects(tmp_path: Path) -> None:
    need_definitions()
    _, made = run_secrets("dev", tmp_path)
    assert len(made) == 8
    for secret in made:
        assert not schema_reasons(secret)
        assert all(base64.b64decode(value, validate=True) for value in secret["data"].values())


def test_the_guide_names_what_there_is() -> None:
    text = (K8S / "README.md").read_text()
    for path in re.findall(r"(?<![\w/])(k8s/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path
    for job in re.findall(r"/srv/ssprompt/(\S+\.py)", text):
        assert (ROOT / job).is_file(), job
    tags = set(re.findall(r"ssprompt(?:-mlflow)?:(\S+?)[\s`]", text))
    assert tags == {
        f"0.1.0-ray{locked('ray')}-cpu",
        f"0.1.0-ray{locked('ray')}-cuda",
        f"0.1.0-mlflow{locked('mlflow')}",
    }
    for overlay in (*OVERLAYS, "dev", "prod"):
        assert f"k8s/overlays/{overlay}" in text, overlay
    for component in (K8S / "components").iterdir():
        assert f"`{component.name}`" in text, component.name
