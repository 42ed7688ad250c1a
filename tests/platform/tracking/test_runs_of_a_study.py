from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tracked import (
    GROUP,
    SETTING,
    TRIAL,
    ended_by,
    final,
    found,
    history,
    record,
    row,
    target,
    tell_story,
    track,
    trial,
    until,
    without_ids,
)

from ssprompt_platform.search.grouped import Suggestion


def test_a_study_is_a_parent_with_children_of_equal_keys(sqlite_uri: str, tmp_path: Path) -> None:
    with track(sqlite_uri, tmp_path, "one") as tracker:
        tracker.started(TRIAL)
        for epoch in (1, 2):
            tracker.reported(TRIAL, {"epoch": epoch, "loss": 1.0 / epoch})
        tracker.ended(TRIAL, "complete", 0.25, None)
        key = tracker.final(GROUP, row(), [record(0), record(1)])
        prompts = tmp_path / "spa-k4-d0.safetensors"
        prompts.write_bytes(b"prompts")
        tracker.file(key, prompts, "prompts")
        tracker.close_final(key)
        report = tmp_path / "report"
        for name in ("index.html", "figures/curve.png", "tables/rows.parquet"):
            (report / name).parent.mkdir(parents=True, exist_ok=True)
            (report / name).write_text(name)
        tracker.tree("study", report, "report")
        tracker.finish([row()], {})

    runs = found(sqlite_uri, "one")
    assert set(runs) == {"study", "spa-k4-t000", "spa-k4-final"}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    parent, one, finals = runs["study"], runs["spa-k4-t000"], runs["spa-k4-final"]
    assert parent["params"] == {"a.b": "1", "kind": "study"}
    assert parent["metrics"] == [("spa.test.miou", 4, 0.5)]
    assert parent["files"] == [
        "report/figures/curve.png", "report/index.html", "report/tables/rows.parquet",
    ]  # fmt: skip
    for child in (one, finals):
        assert child["tags"]["mlflow.parentRunId"] == "study"
    assert one["params"].keys() == finals["params"].keys()
    assert (one["params"]["lr_embedding"], one["params"]["epochs"]) == ("0.1", "7")
    assert history(one, "train.loss") == [(1, 1.0), (2, 0.5)]
    assert history(one, "selection.miou") == [(2, 0.25)]
    assert one["tags"]["trial.state"] == "complete"
    assert one["tags"]["differs"] == "K=4 num_prompts=16 lr_embedding=0.1 lr_weight=0.1 epochs=7"
    assert history(finals, "test.miou.low") == [(0, 0.4)]
    assert finals["files"] == ["prompts/spa-k4-d0.safetensors"]


def test_an_epoch_is_told_while_the_trial_runs(sqlite_uri: str, tmp_path: Path) -> None:
    tracker = track(sqlite_uri, tmp_path, "live")
    tracker.started(TRIAL)
    tracker.reported(TRIAL, {"epoch": 1, "loss": 3.0})
    until(lambda: found(sqlite_uri, "live").get(TRIAL.key, {}).get("metrics"))
    run = found(sqlite_uri, "live")[TRIAL.key]
    assert (run["status"], history(run, "train.loss")) == ("RUNNING", [(1, 3.0)])
    with ended_by(KeyboardInterrupt(), tracker):
        pass
    assert {run["status"] for run in found(sqlite_uri, "live").values()} == {"KILLED"}


def test_only_what_is_searched_differs(sqlite_uri: str, tmp_path: Path) -> None:
    with track(sqlite_uri, tmp_path, "differs", searched={"spa": ["lr_embedding"]}) as tracker:
        tracker.started(trial(0, lr_embedding=0.123456789))
        tracker.ended(trial(0), "complete", 0.5, None)
    run = found(sqlite_uri, "differs")[TRIAL.key]
    assert run["tags"]["differs"] == "K=4 lr_embedding=0.1235"
    assert run["params"]["lr_embedding"] == "0.123456789"


def test_a_continued_study_finds_its_runs_again(sqlite_uri: str, tmp_path: Path) -> None:
    with ended_by(KeyboardInterrupt(), track(sqlite_uri, tmp_path, "two")) as first:
        first.started(TRIAL)
        first.reported(TRIAL, {"epoch": 1, "loss": 3.0})
    before = found(sqlite_uri, "two")
    assert {run["status"] for run in before.values()} == {"KILLED"}
    with track(sqlite_uri, tmp_path, "two") as second:
        second.started(TRIAL)
        second.reported(TRIAL, {"epoch": 2, "loss": 2.0})
        second.ended(TRIAL, "complete", 0.5, None)
        second.finish([row()], {})
    runs = found(sqlite_uri, "two")
    assert {key: run["id"] for key, run in runs.items()} == {k: r["id"] for k, r in before.items()}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert history(runs[TRIAL.key], "train.loss") == [(1, 3.0), (2, 2.0)]


def test_a_study_that_was_deleted_and_begun_again_has_runs_of_its_own(
    sqlite_uri: str, tmp_path: Path
) -> None:
    for uid, loss in (("first", 1.0), ("second", 2.0)):
        with track(sqlite_uri, tmp_path, "again", uid) as tracker:
            tracker.started(TRIAL)
            tracker.reported(TRIAL, {"epoch": 1, "loss": loss})
            tracker.ended(TRIAL, "complete", 0.5, None)
            tracker.finish([row()], {})
    first, second = (found(sqlite_uri, "again", uid) for uid in ("first", "second"))
    assert history(first[TRIAL.key], "train.loss") == [(1, 1.0)]
    assert history(second[TRIAL.key], "train.loss") == [(1, 2.0)]
    assert first["study"]["id"] != second["study"]["id"]
    # what the first one may still have to tell is kept beside
    kept = {path.name for path in (tmp_path / "again").iterdir()}
    assert kept == {"tracking", "tracking-first"}


@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_the_last_report_has_the_epochs_that_a_killed_driver_saw(
    journal: str, sqlite_uri: str, tmp_path: Path
) -> None:
    """Also where it goes on on another machine, which has no journal: MLflow is asked then."""
    study = f"history-{journal}"
    first = track(sqlite_uri, tmp_path / "one", study)
    first.started(TRIAL)
    first.reported(TRIAL, {"epoch": 1, "loss": 1.0})
    assert first.close(20)  # and killed
    root = tmp_path / ("one" if journal == "kept" else "two")
    with track(sqlite_uri, root, study) as second:
        second.started(TRIAL)
        second.reported(TRIAL, {"epoch": 3, "loss": 0.25, "lr": 1.0})
        epochs = [{"epoch": e, "loss": 1 / e, "lr": 0.1, "value": e / 10} for e in (1, 2, 3)]
        last: dict[str, Any] = {"end": "complete", "miou": 0.3, "seconds": 9.0}
        second.reported(TRIAL, {**last, "history": [*epochs, {"epoch": 4, "loss": None}]})
        second.ended(TRIAL, "complete", 0.3, None)
        second.finish([], {})
    run = found(sqlite_uri, study)[TRIAL.key]
    # what was told first stays, and times are in the order of the epochs
    assert history(run, "train.loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert history(run, "selection.miou.rung") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(run, "selection.miou") == [(3, 0.3)]


def test_epochs_that_are_told_late_have_earlier_times(sqlite_uri: str, tmp_path: Path) -> None:
    with track(sqlite_uri, tmp_path, "late") as tracker:
        tracker.started(TRIAL)
        for epoch in (3, 4):
            tracker.reported(TRIAL, {"epoch": epoch, "loss": 1.0})
        tracker.reported(TRIAL, {"history": [{"epoch": e, "loss": 1.0} for e in range(1, 6)]})
        tracker.ended(TRIAL, "complete", 0.3, None)
    run = found(sqlite_uri, "late")[TRIAL.key]
    told = MlflowClient(sqlite_uri).get_metric_history(run["id"], "train.loss")
    assert [one.step for one in told] == [1, 2, 3, 4, 5]


def test_two_machines_that_take_turns_make_no_run_twice(sqlite_uri: str, tmp_path: Path) -> None:
    for turn, machine in enumerate(("one", "two", "one", "two")):
        turn_of = track(sqlite_uri, tmp_path / machine, "turns")
        with ended_by(KeyboardInterrupt(), turn_of) as tracker:
            for number in range(turn + 1):
                tracker.started(trial(number))
                tracker.reported(trial(number), {"epoch": 1, "loss": 1.0})
                tracker.ended(trial(number), "complete", 0.5, None)
    runs = found(sqlite_uri, "turns")
    assert set(runs) == {"study", *(trial(number).key for number in range(4))}
    assert len(runs["study"]["tags"]) > 0


def test_an_unclosed_trial_of_a_killed_driver_is_killed_until_it_goes_on(
    sqlite_uri: str, tmp_path: Path
) -> None:
    first = track(sqlite_uri, tmp_path, "open")
    for number in (0, 1):
        first.started(trial(number))
        first.reported(trial(number), {"epoch": 1, "loss": 1.0})
    assert first.close(20)
    assert {run["status"] for run in found(sqlite_uri, "open").values()} == {"RUNNING"}
    second = track(sqlite_uri, tmp_path, "open")
    second.started(trial(1))
    second.close(20)
    states = {key: run["status"] for key, run in found(sqlite_uri, "open").items()}
    assert states == {"study": "RUNNING", trial(0).key: "KILLED", trial(1).key: "RUNNING"}


@pytest.mark.parametrize(
    ("state", "value", "cause", "status"),
    [
        ("pruned", 0.1, None, "FINISHED"),
        ("failed", None, "out of memory (RuntimeError: x)", "FAILED"),
        ("failed", None, "x" * 20_000, "FAILED"),
    ],
)
def test_states_of_trials(
    state: Any, value: float | None, cause: str | None, status: str, sqlite_uri: str, tmp_path: Path
) -> None:
    study = f"{state}-{len(cause or '')}"
    with track(sqlite_uri, tmp_path, study) as tracker:
        tracker.started(TRIAL)
        tracker.reported(TRIAL, {"epoch": 1, "loss": 1.0})
        tracker.ended(TRIAL, state, value, cause)
    run = found(sqlite_uri, study)[TRIAL.key]
    assert run["status"] == status
    assert run["tags"]["trial.state"] == state
    assert (cause or "").startswith(run["tags"].get("trial.cause", "").removesuffix(" ... (cut)"))
    assert ("trial.cause" in run["tags"]) == (cause is not None)
    assert not history(run, "selection.miou")  # not the score of a whole trial


def test_a_duplicate_has_no_run(sqlite_uri: str, tmp_path: Path) -> None:
    with track(sqlite_uri, tmp_path, "duplicate") as tracker:
        tracker.ended(TRIAL, "duplicate", 0.5, None)
        tracker.finish([row()], {})
    assert set(found(sqlite_uri, "duplicate")) == {"study"}


def test_failed_trials_and_a_failed_study_are_recorded(sqlite_uri: str, tmp_path: Path) -> None:
    with ended_by(ValueError("odd"), track(sqlite_uri, tmp_path, "three")) as tracker:
        tracker.started(TRIAL)
        tracker.reported(TRIAL, {"epoch": 1, "loss": math.inf})
        tracker.reported(TRIAL, {"epoch": 2, "loss": math.nan})
        tracker.ended(TRIAL, "failed", None, "the loss was nan at epoch 2: the fit diverged")
    runs = found(sqlite_uri, "three")
    assert runs[TRIAL.key]["status"] == "FAILED"
    assert runs["study"]["status"] == "FAILED"
    (_, infinite), (_, nan) = history(runs[TRIAL.key], "train.loss")
    assert infinite > 1e200
    assert math.isnan(nan)


def test_a_study_that_another_process_took_is_not_closed(sqlite_uri: str, tmp_path: Path) -> None:
    taken = track(sqlite_uri, tmp_path, "taken", lost=lambda: True)
    with ended_by(KeyboardInterrupt(), taken) as tracker:
        tracker.started(TRIAL)
    assert {run["status"] for run in found(sqlite_uri, "taken").values()} == {"RUNNING"}


def test_an_extended_study_keeps_one_run_of_what_is_chosen_now(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """More draws, then other hyperparameters: MLflow refuses to change a parameter."""
    many = {f"k{number}": number for number in range(250)}
    for draws, setting in ((2, SETTING), (3, SETTING), (3, {**SETTING, "num_prompts": 9})):
        params = {**many, "draws": draws}
        with track(sqlite_uri, tmp_path, "extended", params=params) as tracker:
            now = {**row(draws / 10), "best": setting}
            final(tracker, now, [record(draw) for draw in range(draws)])
            tracker.finish([], {})
    runs = found(sqlite_uri, "extended")
    assert set(runs) == {"study", "spa-k4-final"}
    finals, parent = runs["spa-k4-final"], runs["study"]
    assert finals["params"]["num_prompts"] == "9"
    assert finals["tags"]["draws"] == "3"
    assert history(finals, "test.miou.draw") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert len(parent["params"]) == 251
    assert (parent["params"]["draws"], parent["tags"]["now.draws"]) == ("2", "3")


def test_a_result_that_has_changed_is_told_again_and_an_equal_one_is_not(
    sqlite_uri: str, tmp_path: Path
) -> None:
    for mean in (0.2, 0.2, 0.3):
        with track(sqlite_uri, tmp_path, "means") as tracker:
            tracker.finish([row(mean)], {})
    client = MlflowClient(sqlite_uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`study.id` = 'means'")
    told = client.get_metric_history(run.info.run_id, "spa.test.miou")
    assert [(one.step, one.value) for one in told] == [(4, 0.2), (4, 0.3)]
    assert run.data.metrics == {"spa.test.miou": 0.3}


def test_a_run_that_was_deleted_in_the_ui_is_restored(sqlite_uri: str, tmp_path: Path) -> None:
    with track(sqlite_uri, tmp_path, "deleted") as first:
        tell_story(first, tmp_path)
    before = found(sqlite_uri, "deleted")
    client = MlflowClient(sqlite_uri)
    client.delete_run(before["study"]["id"])
    with track(sqlite_uri, tmp_path, "deleted") as second:
        second.finish([row()], {})
    assert without_ids(found(sqlite_uri, "deleted")) == without_ids(before)


def test_a_database_that_was_lost_is_told_everything_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with track(uri, tmp_path, "s") as first:
        tell_story(first, tmp_path)
    before = without_ids(found(uri, "s"))
    # another database under the same address; a process that knew the tables of the lost one is new
    other = f"sqlite:///{tmp_path / 'other.db'}"
    memory = next((tmp_path / "s" / "tracking").glob("sent-*.db"))
    memory.rename(memory.with_name(f"sent-{target(other, tmp_path).mark}.db"))
    with track(other, tmp_path, "s") as second:
        second.finish([row()], {})
    assert without_ids(found(other, "s")) == before


def test_searching_is_spared_where_nothing_can_be_there(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of a new study grow with its trials, and none of them looks for a run."""
    calls: dict[str, int] = {}
    for name in ("search_runs", "create_run", "log_batch", "set_terminated", "get_run",
                 "get_metric_history"):  # fmt: skip
        _count(monkeypatch, name, calls)
    trials = 30
    with track(sqlite_uri, tmp_path, "new") as tracker:
        for number in range(trials):
            one: Suggestion = trial(number)
            tracker.started(one)
            for epoch in range(5):
                tracker.reported(one, {"epoch": epoch, "loss": 1.0})
            tracker.ended(one, "complete", 0.5, None)
        tracker.finish([], {})
    assert calls["search_runs"] <= 2  # for the study's own run, and for dead studies
    assert calls["create_run"] == trials + 1
    assert calls.get("get_metric_history", 0) == 0
    assert calls["log_batch"] <= 2 * trials + 4
    # nothing of an ended run is held in memory
    assert not tracker._delivery._runs._open  # type: ignore[union-attr]
    assert not tracker._trials


def _count(monkeypatch: pytest.MonkeyPatch, name: str, calls: dict[str, int]) -> None:
    original = getattr(MlflowClient, name)

    def counted(self, *arguments, **options):
        calls[name] = calls.get(name, 0) + 1
        return original(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, name, counted)
