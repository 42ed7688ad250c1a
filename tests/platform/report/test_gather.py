"""A study's folder is read whatever stage it is in; the front of labels is a Pareto front."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from study_folder import CLASSES, write_study

from ssprompt_core.errors import UserError
from ssprompt_platform.plan import FitKey
from ssprompt_platform.report.front import front_rows, on_front
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.search.records import TrialRecord, open_storage
from ssprompt_platform.storage import StudyFolder, read_json, write_json

LOST = [("spa", 4, 1), *[("ssprompt", 1, draw) for draw in range(5)]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """A finished study with six failed fits, all five of a group among them."""
    return gather(write_study(tmp_path_factory.mktemp("runs"), failed=LOST))


def change(folder: StudyFolder, edit: Callable[[dict[str, Any]], object]) -> None:
    record = read_json(folder.record)
    edit(record)
    write_json(folder.record, record)


def test_a_finished_study_has_a_row_for_every_group_with_a_fit(study: StudyData) -> None:
    found = {(row["method"], row["shots"]): row for row in study.rows}
    assert set(found) == {(g.method, g.shots) for g in study.groups} - {("ssprompt", 1)}
    for (method, shots), row in found.items():
        lost = [draw for m, k, draw in LOST if (m, k) == (method, shots)]
        kept = [d for d in range(5) if d not in lost] if method != "zero_shot" else [0]
        assert row["draw_numbers"] == kept
        if method != "zero_shot":
            assert row["draws"] == [study.fits[FitKey(method, shots, d)]["miou"] for d in kept]
    assert len(study.per_class) == len(study.rows) * len(CLASSES)
    assert study.finished


def test_failed_fits_are_kept_with_their_cause_and_said(study: StudyData) -> None:
    assert {(fit["method"], fit["shots"], fit["draw"]) for fit in study.failed} == set(LOST)
    assert all("out of memory" in fit["cause"] for fit in study.failed)
    assert study.missing == [
        "1 of 5 final fits of spa at K = 4 failed: its scores are over 4.",
        "No final fit of ssprompt at K = 1 ended well (5 failed): it has no score.",
    ]


def test_comparisons_leave_a_missing_draw_out_of_its_pairs_only(study: StudyData) -> None:
    pairs = {
        frozenset((row["first"], row["second"])): row
        for row in study.statistics["methods"]
        if row["shots"] == 4
    }
    assert pairs[frozenset(("spa", "linear_probe"))]["n"] == 4
    assert pairs[frozenset(("ssprompt", "linear_probe"))]["n"] == 5
    row = pairs[frozenset(("spa", "ssprompt"))]
    turn = 1 if row["first"] == "spa" else -1
    fits = study.fits
    kept = (0, 2, 3, 4)
    differences = [
        fits[FitKey("spa", 4, d)]["miou"] - fits[FitKey("ssprompt", 4, d)]["miou"] for d in kept
    ]
    assert row["difference"] == pytest.approx(turn * sum(differences) / 4)
    # the group without a fit has no comparison at all
    assert not any(
        "ssprompt" in (row["first"], row["second"]) and row["shots"] == 1
        for row in study.statistics["methods"]
    )
    shots = {(row["method"], row["shots"]) for row in study.statistics["shots"]}
    assert shots == {("linear_probe", 1), ("linear_probe", 4), ("spa", 1), ("spa", 4),
                     ("ssprompt", 4)}  # fmt: skip


def test_everything_that_results_need_is_json(study: StudyData) -> None:
    parts = (study.rows, study.per_class, study.statistics, study.front, study.search)
    json.dumps([*parts, study.failed, study.missing], allow_nan=False)


def test_trials_are_counted_by_state_and_failed_ones_named(study: StudyData) -> None:
    assert study.search["trials"] == {"complete": 27, "pruned": 9, "failed": 9, "duplicate": 9}
    assert study.search["failed"][0] == {
        "trial": "linear_probe-k1-t004",
        "cause": "the loss is not a number at epoch 3",
    }


@pytest.mark.parametrize(
    ("stage", "rows", "trials", "said"),
    [
        ("begun", 0, 0, ["No search trial has ended yet."]),
        ("searching", 0, 28, ["The search of spa at K = 4 has ended 3 of 6 trials."]),
        ("fitting", 9, 54, ["3 of 5 final fits of spa at K = 4 are done."]),
    ],
)
def test_an_unfinished_study_says_what_it_lacks(
    tmp_path: Path, stage: Any, rows: int, trials: int, said: list[str]
) -> None:
    data = gather(write_study(tmp_path, stage=stage))
    assert not data.finished
    assert (len(data.rows), len(data.trials)) == (rows, trials)
    assert set(said) <= set(data.missing)
    if stage != "fitting":
        assert data.missing[-1] == "No final fit is done yet: there are no scores."
        assert not data.statistics["methods"]


def test_a_search_that_its_budget_ended_lacks_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=["spa"])
    change(folder, lambda record: record["config"]["search"].update(trials=8))
    assert len(gather(folder).missing) == 3
    write_json(folder.spent, {"seconds": 5.0, "ended_by": {"spa-k4": "little is to be gained"}})
    assert len(gather(folder).missing) == 2
    write_json(folder.spent, {"seconds": 5.0, "ended_by": {"search": "30 minutes are over"}})
    data = gather(folder)
    assert (data.finished, data.missing) == (True, [])
    assert data.search["spent"] == {"seconds": 5.0}
    assert data.search["ended_by"] == {"search": "30 minutes are over"}


def test_fits_of_settings_that_are_no_longer_chosen_do_not_count(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=["spa", "ssprompt"], shots=[4], failed=[("spa", 4, 0)])
    best = read_json(folder.best)
    best["spa-k4"]["lr_weight"] = 0.31
    write_json(folder.best, best)
    data = gather(folder)
    assert {key.method for key in data.fits} == {"ssprompt"}
    # the failed one would be tried again, too
    assert (data.failed, data.finished) == ([], False)
    assert data.missing == ["No final fit of spa at K = 4 is done yet: it has no score."]


def test_half_written_files_of_a_killed_study_are_not_read(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=["spa"], shots=[4])
    whole = gather(folder)
    (folder.fits / ".spa-k4-d0-x1y2.json").write_text('{"method":')
    (folder.fits / ".spa-k4-d0-x1y2.failed.json").write_text("")
    assert gather(folder) == whole


def test_groups_for_which_the_search_chose_nothing_say_why(tmp_path: Path) -> None:
    # of two trials one is at K = 1 and one at K = 4
    folder = write_study(tmp_path, methods=["zero_shot", "spa"], mode="pareto", trials=2)
    data = gather(folder)
    assert data.finished
    assert data.missing == ["spa at K = 16 has no score: no trial of the search took this K."]
    best = read_json(folder.best)
    del best["spa-k4"]
    write_json(folder.best, best)
    data = gather(folder)
    assert data.finished
    assert (
        "spa at K = 4 has no score: it is off the front of labelled images against mIoU."
        in data.missing
    )
    assert {(row["method"], row["shots"]) for row in data.rows} == {
        ("spa", 1), ("zero_shot", 1), ("zero_shot", 4), ("zero_shot", 16),
    }  # fmt: skip


def test_a_group_whose_trials_all_failed_is_done_without_a_score(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=["spa", "ssprompt"], shots=[4], trials=0)
    change(folder, lambda record: record["config"]["search"].update(trials=1))
    change(folder, lambda record: record["facts"].update(searched=[["spa", 4]]))
    best = read_json(folder.best)
    del best["spa-k4"]
    write_json(folder.best, best)
    study = optuna.create_study(storage=open_storage(folder.optuna), study_name="made/spa-k4")
    study.set_user_attr("method", "spa")
    study.set_user_attr("shots", 4)
    study.tell(study.ask(), state=TrialState.FAIL)
    data = gather(folder)
    assert data.finished
    assert data.missing == ["spa at K = 4 has no score: none of its trials ended well."]
    assert data.search["failed"] == [{"trial": "spa-k4-t000", "cause": "no cause was kept"}]
    assert {key.method for key in data.fits} == {"ssprompt"}


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no study in .*nothing: it holds no study\.json"):
        gather(StudyFolder(tmp_path, "nothing"))
    folder = write_study(tmp_path, stage="begun")
    change(folder, lambda record: record.pop("facts"))
    with pytest.raises(UserError, match="written by an older version and holds no 'facts'"):
        gather(folder)
    folder.record.write_text("{")
    with pytest.raises(UserError, match=r"study\.json cannot be read as JSON"):
        gather(folder)


def test_the_front_of_a_search_per_k_has_the_best_trial_of_each_group(study: StudyData) -> None:
    assert len(study.front) == 9
    for row in study.front:
        own = [
            t.value or 0.0
            for t in study.trials
            if (t.method, t.shots, t.state) == (row["method"], row["shots"], "complete")
        ]
        assert row["value"] == max(own)
        assert row["labelled"] == study.facts["labelled"][str(row["shots"])]
    # linear_probe is planted above all others at every K, and gains with K
    assert [row["method"] for row in study.front if row["on_front"]] == ["linear_probe"] * 3


def test_the_front_of_a_search_over_k_has_every_finished_trial(tmp_path: Path) -> None:
    data = gather(write_study(tmp_path, mode="pareto", trials=9))
    done = [t for t in data.trials if t.state == "complete"]
    assert len(data.front) == len(done) == 18
    kept = {(row["method"], row["number"]) for row in data.front if row["on_front"]}
    for trial in done:
        beaten = any(dominates(point(other), point(trial)) for other in done)
        assert beaten != ((trial.method, trial.number) in kept)


def point(trial: TrialRecord) -> tuple[float, float]:
    assert trial.labelled is not None
    assert trial.value is not None
    return trial.labelled, trial.value


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


points = st.lists(
    st.tuples(st.integers(0, 8).map(float), st.integers(0, 8).map(float)), max_size=30
)


@given(points)
def test_a_point_is_on_the_front_if_and_only_if_nothing_dominates_it(
    points: list[tuple[float, float]],
) -> None:
    kept = on_front(points)
    for number, (here, on) in enumerate(zip(points, kept, strict=True)):
        beaten = any(dominates(other, here) for other in points)
        repeated = here in points[:number]
        assert on == (not beaten and not repeated)


@given(points.flatmap(lambda ps: st.tuples(st.just(ps), st.permutations(ps))))
def test_the_front_does_not_depend_on_the_order(
    pair: tuple[list[tuple[float, float]], list[tuple[float, float]]],
) -> None:
    one, other = (sorted(p for p, on in zip(ps, on_front(ps), strict=True) if on) for ps in pair)
    assert one == other


def test_trials_without_a_price_take_that_of_their_k_or_have_no_point(study: StudyData) -> None:
    trial = next(t for t in study.trials if (t.state, t.shots) == ("complete", 4))
    unpriced = dataclasses.replace(trial, labelled=None)
    assert front_rows([unpriced], {"4": 11.0}, pareto=True)[0]["labelled"] == 11.0
    assert front_rows([unpriced], {"1": 11.0}, pareto=True) == []
