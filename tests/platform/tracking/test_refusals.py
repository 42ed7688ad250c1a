"""What MLflow takes never is set aside with the reason, and holds nothing up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from rich.console import Console
from tracked import (
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
    written,
)

from ssprompt_platform.tracking.dead import name_target
from ssprompt_platform.tracking.delivery import REFUSED
from ssprompt_platform.tracking.sync import Options, sync


def refused(folder: Path) -> list[dict[str, Any]]:
    path = folder / REFUSED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("code", [INVALID_PARAMETER_VALUE, BAD_REQUEST])
def test_an_event_that_is_refused_is_set_aside(
    code: int, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MlflowClient.log_batch

    def picky(client, run_id, metrics=(), params=(), tags=(), **options):
        if any(metric.value == 13.0 for metric in metrics):
            raise MlflowException("unlucky value", error_code=code)
        return original(client, run_id, metrics, params, tags, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    said: list[str] = []
    study = f"refused-{code}"
    with track(sqlite_uri, tmp_path, study, say=said.append) as tracker:
        for number in range(3):
            tracker.started(trial(number))
            for epoch in (1, 2, 3):
                loss = 13.0 if (number, epoch) == (1, 2) else 1.0 / epoch
                tracker.reported(trial(number), {"epoch": epoch, "loss": loss})
            tracker.ended(trial(number), "complete", 0.5, None)
        tracker.finish([row()], {})
    runs = found(sqlite_uri, study)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert history(runs[trial(1).key], "train.loss") == [(1, 1.0), (3, 1.0 / 3)]
    for number in (0, 2):
        assert len(history(runs[trial(number).key], "train.loss")) == 3
    (record,) = refused(tracker.work)
    assert "unlucky value" in record["reason"]
    assert record["event"]["values"] == [["train.loss", 2, 13.0]]
    assert any(f"the metrics of the run '{trial(1).key}'" in line for line in said)
    assert any("refused.jsonl" in line for line in said)


def test_a_refusal_of_everything_is_an_outage(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a proxy that answers 404 while its server starts: nothing is given up."""
    away = True

    def wrong(original):
        def call(client, *arguments, **options):
            if away:
                raise MlflowException("no such page", error_code=INVALID_PARAMETER_VALUE)
            return original(client, *arguments, **options)

        return call

    for name in ("log_batch", "create_run", "get_experiment", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, wrong(getattr(MlflowClient, name)))
    said: list[str] = []
    with track(sqlite_uri, tmp_path, "proxy", say=said.append) as tracker:
        tell_story(tracker, tmp_path)
        until(lambda: said)
        away = False
    assert not refused(tracker.work)
    assert len(found(sqlite_uri, "proxy")) == 4


def test_a_file_that_is_gone_is_refused_with_a_warning(sqlite_uri: str, tmp_path: Path) -> None:
    said: list[str] = []
    with track(sqlite_uri, tmp_path, "gone", say=said.append) as tracker:
        tracker.file("study", tmp_path / "nothing.png", "pictures")
        tracker.tree("study", tmp_path / "no-folder", "report")
        tracker.text("study", "a.txt", "a")
        tracker.finish([row()], {})
    assert found(sqlite_uri, "gone")["study"]["files"] == ["a.txt"]
    assert ["is not there any more" in record["reason"] for record in refused(tracker.work)] == [
        True, True,
    ]  # fmt: skip
    assert any("nothing.png is not there any more" in line for line in said)


def test_lines_that_are_no_events_and_kinds_that_are_unknown(
    sqlite_uri: str, tmp_path: Path
) -> None:
    def tell(tracker: Any) -> None:
        tracker.started(TRIAL)
        tracker.event("dance", key=TRIAL.key)
        with tracker._journal.path.open("ab") as file:
            file.write(b"\x00\x00 not JSON \xff\n")
        tracker.reported(TRIAL, {"epoch": 1, "loss": 1.0})
        tracker.event("metrics", key="nobody", values=[["a", 1, 1.0]])
        tracker.event("text", key="nobody", path="a", text="b")
        tracker.event("file", key=TRIAL.key, source="/x", folder="../../elsewhere")
        tracker.ended(TRIAL, "complete", 0.5, None)

    folder = written(tmp_path, "odd", tell)
    deliver(folder, sqlite_uri, tmp_path, "odd")
    runs = found(sqlite_uri, "odd")
    assert history(runs[TRIAL.key], "train.loss") == [(1, 1.0)]
    assert runs[TRIAL.key]["status"] == "FINISHED"
    reasons = [record["reason"] for record in refused(folder)]
    assert len(reasons) == 5, reasons


def test_a_run_that_cannot_be_made_holds_up_no_other(
    own_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MlflowClient.create_run

    def picky(client, experiment, *arguments, **options):
        if options["run_name"] == trial(0).key:
            raise MlflowException("not this one", error_code=INVALID_PARAMETER_VALUE)
        return original(client, experiment, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", picky)
    folder = written(tmp_path, "one-less", lambda tracker: tell_story(tracker, tmp_path))
    deliver(folder, own_uri, tmp_path, "one-less")
    assert set(found(own_uri, "one-less")) == {"study", "spa-k4-final", trial(1).key}
    monkeypatch.undo()
    # what was refused can be told once more
    name_target(folder, target(own_uri, tmp_path), tmp_path)
    assert sync(Options("one-less", str(tmp_path), again=True), Console(quiet=True))
    run = found(own_uri, "one-less")[trial(0).key]
    assert run["status"] == "FINISHED"
    assert history(run, "train.loss") == [(1, 1.0), (2, 0.5)]
