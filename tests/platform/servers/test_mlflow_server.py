"""The MLflow server, on sqlite and on Postgres, with artifacts that go through it to the bucket."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.mlflow_server import MlflowServer
from ssprompt_platform.servers.processes import LOOPBACK
from ssprompt_platform.servers.seaweed import S3Server


@pytest.fixture(params=["mlflow_server", "mlflow_on_postgres"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    # a client has no keys of the bucket
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    found: MlflowServer = request.getfixturevalue(request.param)
    return found


def test_runs_and_artifacts_outlive_a_kill(
    server: MlflowServer, s3_server: S3Server, tmp_path: Path
) -> None:
    client = MlflowClient(server.uri)
    run = client.create_run(client.create_experiment("kept")).info
    client.log_metric(run.run_id, "miou", 0.5, step=3)
    (tmp_path / "table.txt").write_text("0.5")
    client.log_artifact(run.run_id, str(tmp_path / "table.txt"))
    assert run.artifact_uri.startswith("mlflow-artifacts:/")
    key = f"mlflow/{run.experiment_id}/{run.run_id}/artifacts/table.txt"
    stored = s3_server.client().get_object(Bucket=s3_server.bucket, Key=key)
    assert stored["Body"].read() == b"0.5"

    server.kill()
    assert not server.alive()
    server.start()

    (kept,) = client.get_metric_history(run.run_id, "miou")
    assert (kept.value, kept.step) == (0.5, 3)
    fetched = client.download_artifacts(run.run_id, "table.txt", str(tmp_path / "fetched"))
    assert Path(fetched).read_text() == "0.5"


def test_it_listens_on_loopback_alone_and_hides_the_database(server: MlflowServer) -> None:
    first = psutil.Process(server.pid)
    members = [first, *first.children(recursive=True)]
    listening = {
        tuple(connection.laddr)
        for member in members
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {(LOOPBACK, server.port)}
    for member in members:
        assert server.backend not in " ".join(member.cmdline())


def test_pages_of_other_sites_are_refused(mlflow_server: MlflowServer) -> None:
    def status(**headers: str) -> int:
        url = f"{mlflow_server.uri}/api/2.0/mlflow/experiments/create"
        body = b'{"name": "by a page"}'
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status(Host="elsewhere.example") == 403
    assert status(Origin="http://elsewhere.example") == 403
    assert status(Origin=mlflow_server.uri) == 200


def test_a_taken_port_is_told(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    second = MlflowServer(tmp_path, "sqlite:///x.db", tmp_path, port=mlflow_server.port)
    with pytest.raises(
        UserError, match=rf"port {mlflow_server.port} of MLflow is taken by .*--port"
    ):
        second.start()
