from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.tracking import Tracker

GROUP = Group("spa", 4)
TRIAL = Suggestion(GROUP, 0, {"num_prompts": 16, "lr_embedding": 0.1, "lr_weight": 0.1})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    # one database for all tests: MLflow takes seconds to make one
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def track(uri: str, folder: Path, study_id: str) -> Tracker:
    return Tracker(uri, "test", folder / "artifacts", study_id, study_id, {"a.b": 1, "kind": "x"})


def runs(uri: str, study_id: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`study.id` = '{study_id}'")
    by_key = {run.data.tags["trial.key"]: run for run in found}
    assert len(by_key) == len(found), "a run was made twice"
    return by_key


def row() -> dict[str, Any]:
    return {
        "method": "spa",
        "shots": 4,
        "mean": 0.5,
        "ci95": [0.4, 0.6],
        "best": TRIAL.hyperparameters,
    }


def test_a_study_is_a_parent_with_children_of_equal_keys(uri: str, tmp_path: Path) -> None:
    tracker = track(uri, tmp_path, "one")
    tracker.started(TRIAL)
    for epoch in (1, 2):
        tracker.reported(TRIAL, {"epoch": epoch, "loss": 1.0 / epoch})
    tracker.reported(TRIAL, {"epoch": 2, "miou": 0.25})
    tracker.ended(TRIAL, 0.25)
    prompts = tmp_path / "spa-k4-d0.safetensors"
    prompts.write_bytes(b"prompts")
    record = {"miou": 0.5, "history": [{"epoch": 1, "loss": 0.3}]}
    tracker.final(GROUP, row(), [record, record], [prompts])
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"png")
    tracker.finish([row()], [picture])

    found = runs(uri, "one")
    assert set(found) == {"study", "spa-k4-t000", "spa-k4-final"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found.pop("study")
    assert parent.data.params["a.b"] == "1"
    assert parent.data.metrics == {"spa.test.miou": 0.5}
    for child in found.values():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    trial, final = found["spa-k4-t000"], found["spa-k4-final"]
    assert set(trial.data.params) - set(final.data.params) == set()
    assert trial.data.params["lr_embedding"] == "0.1"
    client = MlflowClient(uri)
    losses = client.get_metric_history(trial.info.run_id, "loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5)]
    assert final.data.metrics["test.miou.low"] == 0.4
    assert [a.path for a in client.list_artifacts(final.info.run_id, "prompts")] == [
        "prompts/spa-k4-d0.safetensors"
    ]
    assert [a.path for a in client.list_artifacts(parent.info.run_id, "pictures")] == [
        "pictures/curve.png"
    ]


def test_a_continued_study_finds_its_runs_again(uri: str, tmp_path: Path) -> None:
    first = track(uri, tmp_path, "two")
    first.started(TRIAL)
    first.abandon("KILLED")
    assert {run.info.status for run in runs(uri, "two").values()} == {"KILLED"}
    second = track(uri, tmp_path, "two")
    assert second.parent == first.parent
    second.started(TRIAL)
    second.ended(TRIAL, 0.5)
    second.finish([row()], [])
    assert {run.info.status for run in runs(uri, "two").values()} == {"FINISHED"}


def test_failed_trials_and_odd_values_are_recorded(uri: str, tmp_path: Path) -> None:
    tracker = track(uri, tmp_path, "three")
    tracker.started(TRIAL)
    tracker.reported(TRIAL, {"epoch": 1, "loss": math.inf})
    tracker.reported(TRIAL, {"epoch": 2, "loss": math.nan})
    tracker.ended(TRIAL, None)
    tracker.abandon("FAILED")
    found = runs(uri, "three")
    assert found["spa-k4-t000"].info.status == "FAILED"
    assert found["study"].info.status == "FAILED"
