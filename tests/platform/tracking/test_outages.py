"""MLflow, its database or the place of its files is away for a while; the study is not."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from tracked import (
    NOWHERE,
    TRIAL,
    deliver,
    found,
    history,
    row,
    target,
    tell_story,
    track,
    trial,
    until,
    without_ids,
    written,
)

from ssprompt_platform.storage import S3Path, StudyFolder
from ssprompt_platform.tracking import Target, Tracker, target_of
from ssprompt_platform.tracking.delivery import Delivery
from ssprompt_platform.tracking.state import Sent

if TYPE_CHECKING:
    from servers import PostgresServer

    from ssprompt_platform.servers.mlflow_server import MlflowServer

EPOCHS = 6


def long_trial(tracker: Tracker, number: int, first: int = 1, last: int = EPOCHS) -> None:
    """Some epochs of a trial; the first one begins it, the last one ends it."""
    one = trial(number)
    if first == 1:
        tracker.started(one)
    for epoch in range(first, last + 1):
        tracker.reported(one, {"epoch": epoch, "loss": 1.0 / epoch})
    if last == EPOCHS:
        tracker.ended(one, "complete", 0.5, None)


def complete(runs: dict[str, dict[str, Any]], trials: int) -> None:
    assert set(runs) == {"study", *(trial(number).key for number in range(trials))}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for number in range(trials):
        own = runs[trial(number).key]
        assert history(own, "train.loss") == [(e, 1.0 / e) for e in range(1, EPOCHS + 1)]
        assert history(own, "selection.miou") == [(EPOCHS, 0.5)]
        assert own["files"] == ["config.yaml", "split.json"]


def shared(tracker_root: Path, study: str) -> dict[int | str, str]:
    """Files beside the journal that trials have a part of theirs from."""
    folder = tracker_root / study / "tracking"
    folder.mkdir(parents=True)
    (folder / "config-x.yaml").write_text("a: 1\n")
    (folder / "split-x.json").write_text("{}\n")
    return {"": "config-x.yaml", 4: "split-x.json"}


def test_a_server_that_is_killed_and_started_again_in_the_middle(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    said: list[str] = []
    files = shared(tmp_path, "killed")
    with track(mlflow_server.uri, tmp_path, "killed", shared=files, say=said.append) as tracker:
        long_trial(tracker, 0)
        long_trial(tracker, 1, last=3)
        until(lambda: found(mlflow_server.uri, "killed").get(trial(1).key, {}).get("metrics"))
        mlflow_server.kill()
        long_trial(tracker, 1, first=4)
        long_trial(tracker, 2)
        until(lambda: said)
        mlflow_server.start()
        long_trial(tracker, 3)
        tracker.finish([], {})
    complete(found(mlflow_server.uri, "killed"), 4)
    # a server that is just starting may answer some requests and not others
    warnings, ends = said[::2], said[1::2]
    assert warnings[0].startswith(f"warning: MLflow ({mlflow_server.uri}) cannot be told anything")
    assert all(line.startswith("warning: ") for line in warnings)
    assert set(ends) == {"MLflow answers again; what waited is told now"}
    assert len(warnings) == len(ends)


def test_a_server_that_stays_away_is_told_later(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    said: list[str] = []
    files = shared(tmp_path, "later")
    tracker = track(
        mlflow_server.uri, tmp_path, "later", shared=files, say=said.append, patience=0.1
    )
    with tracker:
        long_trial(tracker, 0, last=2)
        until(lambda: found(mlflow_server.uri, "later").get(trial(0).key, {}).get("metrics"))
        mlflow_server.kill()
        long_trial(tracker, 0, first=3)
        tracker.finish([], {})
    assert "MLflow" in said[-1]
    assert f"python jobs/tracking.py sync later --root {tmp_path}" in said[-1]
    mlflow_server.start()
    deliver(tracker.work, mlflow_server.uri, tmp_path, "later")
    complete(found(mlflow_server.uri, "later"), 1)


def test_a_database_that_is_killed_and_started_again(
    postgres: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    """The driver writes to Postgres itself, and its connections break."""
    said: list[str] = []
    files = shared(tmp_path, "base")
    with track(postgres_database, tmp_path, "base", shared=files, say=said.append) as tracker:
        long_trial(tracker, 0)
        until(lambda: found(postgres_database, "base").get(trial(0).key, {}).get("metrics"))
        postgres.kill()
        long_trial(tracker, 1)
        until(lambda: said)
        postgres.start()
        long_trial(tracker, 2)
        tracker.finish([], {})
    complete(found(postgres_database, "base"), 3)
    assert said[-1] == "MLflow answers again; what waited is told now"


def test_nobody_waits_for_an_mlflow_that_hangs(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that never end hold up the delivery alone."""
    hangs, goes_on = threading.Event(), threading.Event()
    original = MlflowClient.log_batch

    def hanging(*arguments: Any, **options: Any) -> Any:
        hangs.set()
        goes_on.wait()
        return original(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", hanging)
    tracker = track(sqlite_uri, tmp_path, "hangs", patience=0.05)
    assert hangs.wait(60)
    tell_story(tracker, tmp_path, trials=20)
    assert not tracker.close(0.05)
    monkeypatch.undo()
    goes_on.set()
    tracker._sender._thread.join(60)
    deliver(tracker.work, sqlite_uri, tmp_path, "hangs")
    assert len(found(sqlite_uri, "hangs")) == 22


def test_files_that_cannot_be_stored_hold_up_no_metric(tmp_path: Path, sqlite_uri: str) -> None:
    """The place of the artifacts is away: metrics arrive, files do when it is back."""
    place = tmp_path / "artifacts"
    place.write_text("a file, where a folder should be")
    said: list[str] = []
    wanted = Target(sqlite_uri, f"files-{tmp_path.name}", place.as_uri(), "tracking.uri")
    folder = StudyFolder(tmp_path, "files")
    prompts = tmp_path / "prompts"
    prompts.write_bytes(b"p")
    with Tracker(
        folder, "files", wanted, name="n", params={"a": 1}, say=said.append, patience=20
    ) as tracker:
        tracker.text("study", "note.txt", "x")
        tracker.started(TRIAL)
        tracker.file(TRIAL.key, prompts)
        tracker.reported(TRIAL, {"epoch": 1, "loss": 1.0})
        tracker.ended(TRIAL, "complete", 0.5, None)
        client = MlflowClient(sqlite_uri)

        def ended() -> bool:
            experiment = client.get_experiment_by_name(wanted.experiment)
            query = f"tags.`trial.key` = '{TRIAL.key}' AND attributes.status = 'FINISHED'"
            return bool(experiment and client.search_runs([experiment.experiment_id], query))

        until(ended)
        until(lambda: said)
        assert "the place of MLflow's files" in said[0]
        place.unlink()
        tracker.finish([row()], {})
    experiment = client.get_experiment_by_name(wanted.experiment)
    assert experiment is not None
    stored = {path.name for path in place.rglob("*") if path.is_file()}
    assert stored == {"note.txt", "prompts"}
    assert said[-1] == "MLflow answers again; what waited is told now"


def test_a_journal_can_be_told_to_another_mlflow(
    sqlite_uri: str, postgres_database: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, "moved", lambda tracker: tell_story(tracker, tmp_path))
    for uri in (sqlite_uri, postgres_database):
        deliver(folder, uri, tmp_path, "moved")
    first, second = (without_ids(found(uri, "moved")) for uri in (sqlite_uri, postgres_database))
    assert first == second
    # and each remembers for itself
    assert Delivery(folder, target(NOWHERE, tmp_path), "moved").done is False


def test_times_are_those_of_the_events(sqlite_uri: str, tmp_path: Path) -> None:
    folder = written(tmp_path, "times", lambda tracker: tell_story(tracker, tmp_path))
    from ssprompt_platform.tracking.journal import read

    events = [line.event for line in read(folder / "journal.jsonl", 0, 1000) if line.event]
    begun = next(e["at"] for e in events if e.get("key") == TRIAL.key)
    ended = next(e["at"] for e in events if e["event"] == "end" and e["key"] == TRIAL.key)
    told = next(e["at"] for e in events if e["event"] == "metrics" and e["key"] == TRIAL.key)
    deliver(folder, sqlite_uri, tmp_path, "times")
    client = MlflowClient(sqlite_uri)
    run = client.get_run(found(sqlite_uri, "times")[TRIAL.key]["id"])
    assert (run.info.start_time, run.info.end_time) == (begun, ended)
    assert client.get_metric_history(run.info.run_id, "train.loss")[0].timestamp == told


def test_a_study_in_a_bucket(
    s3_bucket: str, own_uri: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Its journal is on this machine, its files in the bucket, and MLflow's too."""
    monkeypatch.setenv("SSPROMPT_CACHE", str(tmp_path / "cache"))
    root = S3Path.parse(s3_bucket)
    folder = StudyFolder(root, "s")
    for name in ("index.html", "figures/a.png"):
        (folder.report / name).write_bytes(b"content of " + name.encode())
    (folder.fits / "f.safetensors").write_bytes(b"prompts")
    place = target_of(own_uri, "bucket", root)
    with Tracker(folder, "u", place, name="s", params={"a": 1}, patience=30) as tracker:
        tracker.tree("study", folder.report, "report")
        tracker.file("study", folder.fits / "f.safetensors", "prompts")
        tracker.file("study", folder.fits / "gone.safetensors", "prompts")
        tracker.tree("study", folder.path / "nothing", "nothing")
        tracker.finish([], {})
    client = MlflowClient(own_uri)
    experiment = client.get_experiment_by_name("bucket")
    assert experiment is not None
    assert experiment.artifact_location == f"{s3_bucket}/mlflow-artifacts"
    stored = {entry.path.key for entry in (root / "mlflow-artifacts").walk()}
    assert {key.partition("/artifacts/")[2] for key in stored} == {
        "prompts/f.safetensors", "report/figures/a.png", "report/index.html",
    }  # fmt: skip
    refused = (tracker.work / "refused.jsonl").read_text()
    assert refused.count("is not there any more") == 2
    assert not list((root / "s").glob("tracking*"))
    assert tracker.work.is_relative_to(tmp_path / "cache")


def test_a_disk_that_is_full_for_a_while(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the memory of the delivery, and of what is set aside."""
    folder = written(tmp_path, "full", lambda tracker: tell_story(tracker, tmp_path))
    with (folder / "journal.jsonl").open("a") as file:
        file.write("no event\n")
    failures = iter([OSError(28, "No space left on device"), sqlite3.OperationalError("full")] * 3)

    def failing(original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            for failure in failures:
                raise failure
            return original(*arguments)

        return call

    monkeypatch.setattr(Sent, "advance", failing(Sent.advance))
    monkeypatch.setattr(Delivery, "_set_aside", failing(Delivery._set_aside))
    deliver(folder, sqlite_uri, tmp_path, "full")
    assert len(found(sqlite_uri, "full")) == 4
    assert len((folder / "refused.jsonl").read_text().splitlines()) == 1
