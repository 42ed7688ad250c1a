"""The very command of the S3 server's StatefulSet, and the Job that makes its buckets."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from k8s_reasons import name_of
from k8s_render import documents, secret_values
from k8s_study import PLACE
from samples import ROOT
from servers import missing

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.processes import LOOPBACK, Process, free_ports
from ssprompt_platform.servers.seaweed import weed

# what keeps to loopback, with its parts for gRPC; the manifest leaves their ports as they are
INNER = ("master.port", "volume.port", "filer.port")


def container(name: str) -> dict[str, Any]:
    found = next(each for each in documents("dev") if name_of(each) == name)
    spec: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]
    return spec


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Process]]:
    """A server with the arguments of the manifest and the keys of secrets.sh."""
    try:
        program = weed()
    except UserError as error:
        missing(str(error))
    folder = tmp_path_factory.mktemp("objectstore")
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(secret_values("dev")["objectstore-identities"]["s3.json"])
    port = free_ports(8)
    changed = {
        "-dir": str(folder / "data"),
        "-s3.config": str(folder / "s3.json"),
        "-s3.port": str(port),
        "-filer.localSocket": "filer.sock",
        "-s3.localSocket": "s3.sock",
    }
    arguments = []
    for word in container("StatefulSet/objectstore")["args"]:
        name, equals, value = word.partition("=")
        arguments.append(f"{name}{equals}{changed.get(name, value)}")
    numbers = iter(range(port + 1, port + 8))
    arguments += [f"-{part}={next(numbers)}" for part in INNER]
    arguments += [f"-{part}.grpc={next(numbers)}" for part in (*INNER, "s3.port")]
    process = Process(
        [program, *arguments],
        log=folder / "log",
        cwd=folder,
        environment={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )

    def answers() -> bool:
        try:
            client("admin", port).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    try:
        process.wait_until(answers, 90, "the S3 server")
        yield port, process
    finally:
        process.kill()


def client(name: str, port: int) -> Any:
    keys = secret_values("dev")[f"s3-{name}"]
    return boto3.client(
        "s3",
        endpoint_url=f"http://{LOOPBACK}:{port}",
        region_name="us-east-1",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


def test_the_job_makes_the_buckets_and_each_client_has_its_own(
    server: tuple[int, Process], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, _ = server
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in secret_values("dev")["s3-admin"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{LOOPBACK}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    job = next(each for each in documents("dev") if name_of(each) == "Job/buckets")
    pod = job["spec"]["template"]["spec"]
    for each in (*pod["initContainers"], *pod["containers"]):
        python, place, *words = each["command"]
        assert python == "python"
        program = ROOT / place.removeprefix(PLACE)
        spec = importlib.util.spec_from_file_location("storage_of_the_job", program)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.main(words) == 0, capsys.readouterr()
        assert module.main(words) == 0, "a second run changes nothing"
    studies, mlflow = client("studies", port), client("mlflow", port)
    studies.put_object(Bucket="ssprompt", Key="studies/a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        studies.put_object(Bucket="ssprompt", Key="studies/a", Body=b"1", IfNoneMatch="*")
    mlflow.put_object(Bucket="mlflow", Key="artifacts/a", Body=b"1")
    for keys, bucket in ((studies, "mlflow"), (mlflow, "ssprompt")):
        with pytest.raises(ClientError, match="AccessDenied"):
            keys.put_object(Bucket=bucket, Key="b", Body=b"1")
        with pytest.raises(ClientError, match="AccessDenied"):
            keys.list_objects_v2(Bucket=bucket)


def test_only_s3_listens_beyond_loopback(server: tuple[int, Process]) -> None:
    port, _ = server
    others = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and port <= connection.laddr.port < port + 8
        and connection.laddr.ip not in (LOOPBACK, "::1")
    }
    # and its own gRPC port, which follows -s3.ip.bind; the policies let nobody there
    assert {number for _, number in others} == {port, port + 7}
    policy = next(each for each in documents("dev") if name_of(each) == "NetworkPolicy/objectstore")
    assert [each["port"] for each in policy["spec"]["ingress"][0]["ports"]] == [8333]
