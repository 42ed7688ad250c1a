"""What the doctor says of MLflow: a real server, real databases."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from planted_s3 import planted

from ssprompt_platform.config import load_config
from ssprompt_platform.doctor.findings import Finding, State, Subject
from ssprompt_platform.doctor.tracking import mlflow, shown
from ssprompt_platform.storage import storage_root

STUDIES = Path(__file__).resolve().parents[3] / "jobs" / "studies"


def look(root: Path, *words: str) -> list[Finding]:
    config = load_config([f"storage.root={root}", *words], STUDIES)
    return list(mlflow(Subject(config, storage_root(config.storage.root))))


def states(found: list[Finding]) -> dict[str, State]:
    return {each.name: each.state for each in found}


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A database of MLflow with one experiment whose artifacts lie in the storage root."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    place = (tmp_path / "runs" / "mlflow-artifacts").as_uri()
    MlflowClient(uri).create_experiment("mine", artifact_location=place)
    return uri


def test_a_database_that_is_not_there_yet_is_fine(tmp_path) -> None:
    (found,) = look(tmp_path / "runs")
    assert found.state is State.OK
    assert "will be made" in found.found
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_there(tmp_path, base) -> None:
    found = look(tmp_path / "runs", f"tracking.uri={base}", "tracking.experiment=mine")
    assert states(found) == {"MLflow": State.OK, "MLflow experiment": State.OK}
    found = look(tmp_path / "runs", f"tracking.uri={base}", "tracking.experiment=new")
    assert "'new' will be made by the study" in found[-1].found
    assert MlflowClient(base).get_experiment_by_name("new") is None


def test_a_database_that_another_process_holds(tmp_path, base, monkeypatch) -> None:
    monkeypatch.setattr("ssprompt_platform.doctor.tracking.SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        (found,) = look(tmp_path / "runs", f"tracking.uri={base}")
    assert found.state is State.FAIL
    assert "locked" in found.found


def test_a_file_that_is_no_database(tmp_path) -> None:
    (tmp_path / "mlflow.db").write_text("words " * 1000)
    (found,) = look(tmp_path / "runs", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}")
    assert found.state is State.FAIL
    assert "not a database" in found.found


def test_a_database_of_another_version(tmp_path, base) -> None:
    # another file: MLflow looks at each once in a process
    older = tmp_path / "older.db"
    shutil.copyfile(tmp_path / "mlflow.db", older)
    with closing(sqlite3.connect(older)) as change:
        change.execute("UPDATE alembic_version SET version_num = 'cc1f77228345'")
        change.commit()
    found = look(tmp_path / "runs", f"tracking.uri=sqlite:///{older}")
    assert found[-1].state is State.FAIL
    assert "another version of MLflow" in found[-1].found
    assert "mlflow db upgrade" in found[-1].mend


def test_an_experiment_that_was_deleted(tmp_path, base) -> None:
    client = MlflowClient(base)
    identity = client.get_experiment_by_name("mine").experiment_id
    client.delete_experiment(identity)
    found = look(tmp_path / "runs", f"tracking.uri={base}", "tracking.experiment=mine")
    assert found[-1].state is State.FAIL
    assert f"mlflow experiments restore --experiment-id {identity}" in found[-1].mend


def test_artifacts_that_go_elsewhere_are_tried_there(tmp_path, base) -> None:
    words = (f"tracking.uri={base}", "tracking.experiment=mine")
    found = look(tmp_path / "other", *words)
    assert states(found)["MLflow artifacts"] is State.OK
    (tmp_path / "runs").write_text("no folder")
    found = look(tmp_path / "other", *words)
    assert states(found)["MLflow artifacts"] is State.FAIL


def test_artifacts_that_go_to_another_bucket_are_tried_there(tmp_path, base, s3_bucket) -> None:
    MlflowClient(base).create_experiment("there", artifact_location=f"{s3_bucket}/artifacts")
    MlflowClient(base).create_experiment("gone", artifact_location="s3://no-such-bucket/artifacts")
    for name, state in (("there", State.OK), ("gone", State.FAIL)):
        found = look(tmp_path, f"tracking.uri={base}", f"tracking.experiment={name}")
        assert states(found)["MLflow artifacts"] is state


def test_a_server_that_is_fine(tmp_path, mlflow_server, s3_server) -> None:
    found = look(tmp_path, f"tracking.uri={mlflow_server.uri}", "tracking.experiment=doctors")
    assert states(found) == dict.fromkeys(
        ["MLflow", "MLflow clock", "MLflow experiment", "MLflow artifacts"], State.OK
    )
    # nothing of the probe stays
    listed = s3_server.client().list_objects_v2(Bucket=s3_server.bucket, Prefix="mlflow/.ssprompt")
    assert listed["KeyCount"] == 0
    MlflowClient(mlflow_server.uri).create_experiment("doctors")
    found = look(tmp_path, f"tracking.uri={mlflow_server.uri}", "tracking.experiment=doctors")
    assert {each.state for each in found} == {State.OK}
    assert "'doctors' takes tags" in found[2].found


def test_a_server_that_cannot_keep_artifacts(tmp_path, mlflow_server, s3_server) -> None:
    s3_server.kill()
    found = look(tmp_path, f"tracking.uri={mlflow_server.uri}", "tracking.experiment=artless")
    assert states(found)["MLflow artifacts"] is State.WARN


def test_a_server_that_is_down_is_told(tmp_path) -> None:
    words = ("tracking.uri=http://127.0.0.1:1", "tracking.must_answer=false")
    (found,) = look(tmp_path, *words)
    assert found.state is State.WARN
    assert "does not answer" in found.found
    assert "jobs/tracking.py sync" in found.mend
    # a study that must find it does not begin
    (found,) = look(tmp_path, words[0], "tracking.must_answer=true")
    assert found.state is State.FAIL
    assert "tracking.must_answer=false" in found.mend


@pytest.mark.parametrize("uri", ["runs/mlruns", "http://", "http://host:port", "ftp://host"])
def test_what_is_no_address(tmp_path, uri) -> None:
    (found,) = look(tmp_path, f"tracking.uri={uri}")
    assert found.state is State.FAIL
    assert "tracking.uri is" in found.found


def test_what_answers_is_no_mlflow(tmp_path) -> None:
    with planted(200) as url:
        (found,) = look(tmp_path, f"tracking.uri={url}")
    assert found.state is State.FAIL
    assert "is no MLflow" in found.found


@pytest.mark.parametrize(("status", "part"), [(401, "asks who you are"), (403, "sends everybody")])
def test_a_server_that_wants_a_name(tmp_path, status, part) -> None:
    with planted(status, "x") as url:
        (found,) = look(tmp_path, f"tracking.uri={url}")
    assert found.state is State.FAIL
    assert part in found.found
    assert "MLFLOW_TRACKING_USERNAME" in found.mend


def test_postgres(tmp_path, postgres_database) -> None:
    found = look(tmp_path, f"tracking.uri={postgres_database}")
    assert states(found) == {"MLflow": State.OK, "MLflow experiment": State.OK}
    down = "tracking.uri=postgresql://me@127.0.0.1:1/mlflow"
    (found,) = look(tmp_path, down, "tracking.must_answer=false")
    assert found.state is State.WARN
    assert "no database answers at 127.0.0.1:1" in found.found


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    assert shown("http://me:secret@host:5000/x?token=secret") == "http://host:5000/x"
    assert shown("http://host:5000") == "http://host:5000"
