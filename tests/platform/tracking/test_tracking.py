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
SETTING = {"num_prompts": 16, "lr_embedding": 0.1, "lr_weight": 0.1, "epochs": 7}
TRIAL = Suggestion("spa-k4", "spa", 4, 0, SETTING)


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


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


def row(mean: float = 0.5) -> dict[str, Any]:
    return {
        "method": "spa",
        "shots": 4,
        "mean": mean,
        "ci95": [mean - 0.1, mean + 0.1],
        "best": TRIAL.hyperparameters,
    }


def history(uri: str, run: Run, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, name)]


def test_a_study_is_a_parent_with_children_of_equal_keys(uri: str, tmp_path: Path) -> None:
    tracker = track(uri, tmp_path, "one")
    tracker.started(TRIAL)
    for epoch in (1, 2):
        tracker.reported(TRIAL, {"epoch": epoch, "loss": 1.0 / epoch})
    tracker.ended(TRIAL, "complete", 0.25, None)
    prompts = tmp_path / "spa-k4-d0.safetensors"
    prompts.write_bytes(b"prompts")
    record = {"miou": 0.5, "history": [{"epoch": 1, "loss": 0.3}]}
    tracker.final(GROUP, row(), [record, record], [prompts])
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"png")
    report = tmp_path / "report"
    for name in ("index.html", "figures/curve.png", "tables/rows.parquet"):
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).write_text(name)
    tracker.attach(report)
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
    assert trial.data.params.keys() == final.data.params.keys()
    assert (trial.data.params["lr_embedding"], trial.data.params["epochs"]) == ("0.1", "7")
    assert history(uri, trial, "loss") == [(1, 1.0), (2, 0.5)]
    assert history(uri, trial, "miou") == [(2, 0.25)]
    assert trial.data.tags["trial.state"] == "complete"
    assert final.data.metrics["test.miou.low"] == 0.4
    client = MlflowClient(uri)
    assert [a.path for a in client.list_artifacts(final.info.run_id, "prompts")] == [
        "prompts/spa-k4-d0.safetensors"
    ]
    kept = {
        place: [a.path.removeprefix(f"{place}/") for a in client.list_artifacts(parent_id, place)]
        for parent_id in [parent.info.run_id]
        for place in ("pictures", "report", "report/figures", "report/tables")
    }
    assert kept == {
        "pictures": ["curve.png"],
        "report": ["figures", "index.html", "tables"],
        "report/figures": ["curve.png"],
        "report/tables": ["rows.parquet"],
    }


def test_a_continued_study_finds_its_runs_again(uri: str, tmp_path: Path) -> None:
    first = track(uri, tmp_path, "two")
    first.started(TRIAL)
    first.reported(TRIAL, {"epoch": 1, "loss": 3.0})
    first.abandon("KILLED")
    assert {run.info.status for run in runs(uri, "two").values()} == {"KILLED"}
    second = track(uri, tmp_path, "two")
    assert second.parent == first.parent
    second.started(TRIAL)
    assert {run.info.status for run in runs(uri, "two").values()} == {"RUNNING"}
    second.reported(TRIAL, {"epoch": 2, "loss": 2.0})
    second.ended(TRIAL, "complete", 0.5, None)
    second.finish([row()], [])
    found = runs(uri, "two")
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(uri, found["spa-k4-t000"], "loss") == [(1, 3.0), (2, 2.0)]


def test_the_last_report_has_the_epochs_that_a_killed_driver_saw(uri: str, tmp_path: Path) -> None:
    track(uri, tmp_path, "history").started(TRIAL)  # and killed: nothing of its epochs was written
    second = track(uri, tmp_path, "history")
    second.started(TRIAL)
    second.reported(TRIAL, {"epoch": 3, "loss": 0.25, "lr": 1.0})
    epochs = [{"epoch": e, "loss": 1 / e, "lr": 0.1, "value": e / 10} for e in (1, 2, 3)]
    last: dict[str, Any] = {"end": "complete", "miou": 0.3, "seconds": 9.0}
    second.reported(TRIAL, {**last, "history": [*epochs, {"epoch": 4, "loss": None}]})
    second.ended(TRIAL, "complete", 0.3, None)
    run = runs(uri, "history")["spa-k4-t000"]
    assert history(uri, run, "loss") == [(e, pytest.approx(1 / e)) for e in (1, 2, 3)]
    assert history(uri, run, "value") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(uri, run, "miou") == [(3, 0.3)]


def whole_trial(tracker: Tracker) -> None:
    tracker.started(TRIAL)
    tracker.reported(TRIAL, {"history": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]})
    tracker.ended(TRIAL, "complete", 0.25, None)


def test_a_kill_before_any_call_to_mlflow_doubles_and_loses_nothing(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver dies right before its n-th writing call, for every n; the next one ends it all."""
    calls, deadly = 0, 0

    def counted(original):
        def call(self, *arguments, **options):
            nonlocal calls
            calls += 1
            if calls == deadly:
                raise KilledError
            return original(self, *arguments, **options)

        return call

    writing = ("create_run", "log_batch", "set_terminated", "update_run", "set_tag", "log_artifact")
    for name in writing:
        monkeypatch.setattr(MlflowClient, name, counted(getattr(MlflowClient, name)))
    survived = False
    while not survived:
        calls, deadly = 0, deadly + 1
        study = f"killed-{deadly}"
        try:
            whole_trial(track(uri, tmp_path, study))
            survived = True
        except KilledError:
            calls = -1000
            # no abandon: a killed process closes nothing; and a second one ends the trial twice
            for _ in range(2):
                whole_trial(track(uri, tmp_path, study))
        found = runs(uri, study)
        assert set(found) == {"study", "spa-k4-t000"}
        trial = found["spa-k4-t000"]
        assert trial.info.status == "FINISHED"
        assert trial.data.params["lr_weight"] == "0.1"
        assert trial.data.tags["kind"] == "search"
        assert trial.data.tags["mlflow.parentRunId"] == found["study"].info.run_id
        assert found["study"].data.params == {"a.b": "1", "kind": "x"}
        assert history(uri, trial, "loss") == [(1, 2.0), (2, 1.0)]
        assert history(uri, trial, "miou") == [(2, 0.25)]
    assert deadly > 8


@pytest.mark.parametrize(
    ("state", "value", "cause", "status"),
    [
        ("pruned", 0.1, None, "FINISHED"),
        ("failed", None, "out of memory (RuntimeError: x)", "FAILED"),
        ("failed", None, "x" * 20_000, "FAILED"),
    ],
)
def test_states_of_trials(
    state: Any, value: float | None, cause: str | None, status: str, uri: str, tmp_path: Path
) -> None:
    study = f"{state}-{len(cause or '')}"
    tracker = track(uri, tmp_path, study)
    tracker.started(TRIAL)
    tracker.reported(TRIAL, {"epoch": 1, "loss": 1.0})
    tracker.ended(TRIAL, state, value, cause)
    run = runs(uri, study)["spa-k4-t000"]
    assert run.info.status == status
    assert run.data.tags["trial.state"] == state
    assert (cause or "").startswith(run.data.tags.get("trial.cause", ""))
    assert ("trial.cause" in run.data.tags) == (cause is not None)
    assert "miou" not in run.data.metrics  # not the score of a whole trial


def test_a_duplicate_has_no_run(uri: str, tmp_path: Path) -> None:
    tracker = track(uri, tmp_path, "duplicate")
    tracker.ended(TRIAL, "duplicate", 0.5, None)
    tracker.finish([row()], [])
    assert set(runs(uri, "duplicate")) == {"study"}


def test_failed_trials_and_odd_values_are_recorded(uri: str, tmp_path: Path) -> None:
    tracker = track(uri, tmp_path, "three")
    tracker.started(TRIAL)
    tracker.reported(TRIAL, {"epoch": 1, "loss": math.inf})
    tracker.reported(TRIAL, {"epoch": 2, "loss": math.nan})
    tracker.ended(TRIAL, "failed", None, "the loss was nan at epoch 2: the fit diverged")
    tracker.abandon("FAILED")
    found = runs(uri, "three")
    assert found["spa-k4-t000"].info.status == "FAILED"
    assert found["study"].info.status == "FAILED"


def test_an_extended_study_keeps_one_run_of_what_is_chosen_now(uri: str, tmp_path: Path) -> None:
    """More draws, then other hyperparameters: MLflow refuses to change a parameter."""
    record = {"miou": 0.5, "history": [{"epoch": 1, "loss": 0.3}]}
    many = {f"k{number}": number for number in range(250)}
    for draws, setting in ((2, SETTING), (3, SETTING), (3, {**SETTING, "num_prompts": 9})):
        tracker = Tracker(uri, "test", tmp_path, "extended", "n", {**many, "draws": draws})
        now = {**row(draws / 10), "best": setting}
        tracker.final(GROUP, now, [record] * draws, [])
        tracker.finish([now], [])
    found = runs(uri, "extended")
    assert set(found) == {"study", "spa-k4-final"}
    final, parent = found["spa-k4-final"], found["study"]
    assert final.data.params["num_prompts"] == "9"
    assert final.data.tags["draws"] == "3"
    assert history(uri, final, "test.miou") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert len(parent.data.params) == 251
    assert (parent.data.params["draws"], parent.data.tags["now.draws"]) == ("2", "3")
    assert history(uri, parent, "spa.test.miou") == [(4, 0.2), (4, 0.3)]
