"""A wrong address is one sentence, told before anything begins."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import Config
from ssprompt_platform.storage import S3Path, StudyFolder
from ssprompt_platform.tracking import check_tracking, target_of, tracking_uri
from ssprompt_platform.tracking.dead import name_target
from ssprompt_platform.tracking.target import Target, check_target

if TYPE_CHECKING:
    from servers import PostgresServer

    from ssprompt_platform.servers.mlflow_server import MlflowServer


def refusal(uri: str, root: Path, experiment: str = "x", must_answer: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        check_target(target_of(uri, experiment, root), must_answer=must_answer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def web_page() -> Iterator[str]:
    """A server that is no MLflow."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("http://127.0.0.1:9", ["tracking.uri is http://127.0.0.1:9", "nothing answers at",
                                "tracking.must_answer=false"]),
        ("http://no-such-host.invalid:5000", ["there is no host named 'no-such-host.invalid'"]),
        ("postgresql://u@127.0.0.1:9/mlflow", ["nothing answers at 127.0.0.1:9"]),
        ("mlruns", ["tracking.uri is 'mlruns'", "keeps no runs in folders any more"]),
        ("file:///tmp/mlruns", ["keeps no runs in folders any more"]),
        ("htp://host:5000", ["must be the address of an MLflow server"]),
        ("http://host:50x0", ["whose port is no number"]),
        ("http:///mlflow", ["names no host"]),
        ("postgresql://u@h/d?password=hidden-one", ["its password would be kept", "(hidden)"]),
    ],
)  # fmt: skip
def test_an_address_that_nobody_answers(uri: str, parts: list[str], tmp_path: Path) -> None:
    told = refusal(uri, tmp_path)
    for part in parts:
        assert part in told


def test_what_answers_must_be_mlflow(web_page: str, tmp_path: Path) -> None:
    assert "no MLflow server" in refusal(web_page, tmp_path)


def test_a_database_that_refuses(postgres: PostgresServer, tmp_path: Path) -> None:
    told = refusal(postgres.database_url("no_such_base"), tmp_path)
    assert "does not exist" in told
    assert told.startswith("tracking.uri")


def test_a_password_of_the_environment_is_not_shown(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "wrong-password-9"
    uri = postgres.database_url("postgres", "guarded").replace("guarded@", f"guarded:{secret}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    told = refusal("", tmp_path)
    assert told.startswith("MLFLOW_TRACKING_URI")
    assert secret not in told
    assert secret not in target_of("", "x", tmp_path).shown
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{secret}@127.0.0.1:9")
    told = refusal("", tmp_path)
    assert "user:(hidden)@127.0.0.1:9" in told


def test_an_experiment_needs_a_name(tmp_path: Path) -> None:
    assert "tracking.experiment is empty" in refusal("http://127.0.0.1:9", tmp_path, " ")


def test_an_experiment_that_was_deleted(own_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(own_uri)
    client.delete_experiment(client.create_experiment("x"))
    told = refusal(own_uri, tmp_path)
    assert "tracking.experiment is 'x', which was deleted" in told
    assert "mlflow experiments restore" in told


def test_an_unreachable_one_may_be_waited_for_but_a_misspelt_one_is_refused(
    tmp_path: Path,
) -> None:
    config = Config()
    config.tracking.must_answer = False
    config.tracking.uri = "http://127.0.0.1:9"
    folder = StudyFolder(tmp_path, "s")
    check_tracking(config, folder)
    config.tracking.uri = "127.0.0.1:9"
    with pytest.raises(UserError, match="must be the address"):
        check_tracking(config, folder)


def test_a_server_that_answers(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    check_target(target_of(mlflow_server.uri, "new", tmp_path), must_answer=True)
    assert target_of(mlflow_server.uri, "new", tmp_path).artifacts is None


def test_where_values_go_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = Config(), StudyFolder(tmp_path, "s")
    assert tracking_uri(config, folder) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert target_of("", "x", tmp_path).artifacts == (tmp_path / "mlflow-artifacts").as_uri()
    # a file that is not there yet is neither made nor refused
    check_tracking(config, folder)
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.chdir(tmp_path)
    bucket = target_of("", "x", S3Path("b", "p"))
    assert bucket.uri == f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    assert bucket.artifacts == "s3://b/p/mlflow-artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert tracking_uri(config, folder) == "http://there:5000"
    config.tracking.uri = "http://here:5000"
    assert tracking_uri(config, folder) == "http://here:5000"


def test_what_is_kept_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others find the same MLflow; a password is not kept, and a root may be moved."""
    kept = []
    bucket = S3Path("b", "p")
    monkeypatch.chdir(tmp_path)
    for root, uri, variable in (
        (tmp_path, "http://here:5000", ""),
        (tmp_path, "", ""),
        (tmp_path, "", "postgresql://u:secret-pw@h/d"),
        (tmp_path, "", "postgresql://u@h/d"),
        (bucket, "", ""),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
        name_target(tmp_path, target_of(uri, "x", root), root)
        kept.append(json.loads((tmp_path / "target.json").read_text())["uri"])
    database = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    assert kept == ["http://here:5000", "", "", "postgresql://u@h/d", database]


def test_an_experiment_in_a_folder_of_another_root_is_left_alone(
    own_uri: str, tmp_path: Path
) -> None:
    from ssprompt_platform.tracking.experiment import experiment_id

    client = MlflowClient(own_uri)
    here = Target(own_uri, "x", (tmp_path / "mlflow-artifacts").as_uri(), "")
    there = Target(own_uri, "x", "s3://b/p/mlflow-artifacts", "")
    first, second = experiment_id(client, here), experiment_id(client, there)
    assert first != second
    assert (experiment_id(client, here), experiment_id(client, there)) == (first, second)
    found = client.get_experiment(second)
    assert found.name == "x in s3://b/p/mlflow-artifacts"
    assert found.artifact_location == "s3://b/p/mlflow-artifacts"
