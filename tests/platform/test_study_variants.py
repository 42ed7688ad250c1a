"""Whole studies of every kind: selection, mode, pruning, extension, resumption, failure."""

from __future__ import annotations

import importlib.util
import io
import json
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from finished_studies import (
    Labels,
    all_stamps,
    assert_finished,
    client_of,
    epochs_of,
    fit_stamps,
    load,
    opened_labels,
    runs_by_key,
    trials_by_key,
)
from rich.console import Console
from samples import ROOT, STUDIES, write_image_folder

from ssprompt_core.errors import UserError
from ssprompt_platform.launch import run_study
from ssprompt_platform.search.records import TrialRecord
from ssprompt_platform.storage import StudyFolder

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]

SMALL = [
    "study=smoke", "study.methods=[linear_probe]", "study.draws=2", "search.trials=2",
    "train.epochs=2", "train.steps_per_epoch=2", "train.batch_size=2",
    # the first is the default and much the best
    "search.space.lr_probe.choices=[0.05,1e-6,1e-9]", "search.space.weight_decay.choices=[0.001]",
]  # fmt: skip
CV = [
    "study.id=cv", "study.selection=cv", "study.folds=3", "study.shots=[2]",
    "search.enqueue=[{lr_probe: 1e-6},{lr_probe: 1e-9}]",
]  # fmt: skip
MORE = ["study.shots=[2,4]", "study.draws=3", "search.trials=3"]
HOLDOUT = [
    "study.name=held out", "study.selection=holdout", "study.shots=[1]", "data.kind=procedural",
    "data.train_images=16", "data.val_images=3", "data.test_images=3",
]  # fmt: skip
PARETO = ["study.id=prices", "study.mode=pareto", "study.shots=[1,2,3]", "search.trials=4"]
RACE = [
    "study.id=race", "study.methods=[spa]", "study.shots=[1]", "study.draws=3", "search.draws=3",
    "search.trials=4", "search.pruning.over=draws", "search.pruning.p=0.2",
    "search.space.num_prompts.choices=[4]", "search.space.lr_embedding.choices=[0.3,1e-9]",
    "search.space.lr_weight.choices=[0.3,1e-9]", "search.space.epochs.choices=[1,2]",
    "search.space.dice_weight.low=0.5", "search.space.dice_weight.high=2.0",
    "search.enqueue=[{lr_embedding: 1e-9, lr_weight: 1e-9, epochs: 2}]",
]  # fmt: skip
FAILING = [
    "study.id=failing", "study.methods=[linear_probe,spa]", "study.shots=[1]",
    "search.space.lr_probe.choices=[0.05,1e30]", "search.enqueue=[{lr_probe: 1e30}]",
    "search.space.lr_embedding.choices=[1e30]", "search.space.num_prompts.choices=[2,4]",
]  # fmt: skip

Extended = tuple[dict[str, Any], dict[str, TrialRecord], dict[str, int], Labels, str]
"""Results, trials and fits before the extension; the labels read in it, and what it said."""


class Place:
    """Where the studies of this module run: one folder of images, one storage root."""

    def __init__(self, root: Path, label_log: Path) -> None:
        self.root, self._label_log = root / "runs", label_log
        self._data = write_image_folder(root / "data")

    def words(self, words: list[str]) -> list[str]:
        return [*SMALL, *self._data, *words, f"storage.root={self.root}"]

    def run(self, words: list[str]) -> tuple[StudyFolder, str]:
        console = Console(file=io.StringIO(), width=200)
        folder = run_study(self.words(words), STUDIES, console)
        assert isinstance(console.file, io.StringIO)
        return folder, console.file.getvalue()

    def labels(self) -> Labels:
        return opened_labels(self._label_log)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, label_log: Path) -> Place:
    return Place(tmp_path_factory.mktemp("variants"), label_log)


# cross-validation, and its extension


@pytest.fixture(scope="module")
def cv(place: Place) -> tuple[StudyFolder, Labels]:
    before = len(place.labels())
    return place.run(CV)[0], place.labels()[before:]


def test_cv_selects_on_the_support_images_alone(cv: tuple[StudyFolder, Labels]) -> None:
    folder, labels = cv
    record, results = load(folder.record), load(folder.results)
    # nothing but the support costs labels
    support = load(folder.draws / "draw-0.json")["support"]["2"]
    assert record["facts"]["labelled"] == {"2": len(support)} == {"2": 2.0}
    # leave-one-out of two images: in each trial each is fitted on once and scored once
    in_trials = Counter(image for image, names in labels if "run_trial" in names)
    assert in_trials == dict.fromkeys(support, 2 * 2)
    trials = trials_by_key(folder)
    assert [trial.state for trial in trials.values()] == ["complete"] * 2
    assert_finished(runs_by_key(folder), [*trials, "linear_probe-k2-final"])
    for key in trials:
        assert epochs_of(folder, key) == [1, 2, 3, 4]
    best = max(trials.values(), key=lambda trial: trial.value or 0.0)
    assert results["rows"][0]["best"] == best.params


@pytest.fixture(scope="module")
def extended(cv: tuple[StudyFolder, Labels], place: Place) -> Extended:
    folder, _ = cv
    before = load(folder.results), trials_by_key(folder), fit_stamps(folder)
    read = len(place.labels())
    _, text = place.run([*CV, *MORE])
    return *before, place.labels()[read:], text


def test_an_extension_runs_the_difference_only(
    cv: tuple[StudyFolder, Labels],
    extended: Extended,
) -> None:
    folder, _ = cv
    results, trials, fits, labels, text = extended
    assert "study cv is extended, when it had scored on the test images already" in text
    record = load(folder.record)
    (extension,) = record["extensions"]
    changes = {"search.trials": [2, 3], "study.draws": [2, 3], "study.shots": [[2], [2, 4]]}
    assert extension["changes"] == changes
    assert extension["after_scores"]
    assert load(folder.path / "results-before-1.json") == results

    now = trials_by_key(folder)
    assert sorted(now) == [f"linear_probe-k{k}-t00{n}" for k in (2, 4) for n in range(3)]
    assert {key: now[key] for key in trials} == trials
    # the best of K = 2 stayed the best, so its fits stand
    assert load(folder.best)["linear_probe-k2"] == results["rows"][0]["best"]
    assert {key: fit_stamps(folder)[key] for key in fits} == fits
    new = fit_stamps(folder).keys() - fits.keys()
    assert new == {"linear_probe-k2-d2", *(f"linear_probe-k4-d{d}" for d in range(3))}
    scored = Counter(image for image, names in labels if "score_test" in names)
    assert scored == dict.fromkeys(record["facts"]["test_ids"], len(new))

    rows = load(folder.results)["rows"]
    assert [(row["shots"], len(row["draws"])) for row in rows] == [(2, 3), (4, 3)]
    assert rows[0]["draws"][:2] == results["rows"][0]["draws"]
    runs = runs_by_key(folder)
    assert_finished(runs, [*now, *(f"linear_probe-k{k}-final" for k in (2, 4))])
    final = runs["linear_probe-k2-final"].info.run_id
    tested = client_of(folder).get_metric_history(final, "test.miou.draw")
    assert [metric.value for metric in sorted(tested, key=lambda m: m.step)] == rows[0]["draws"]
    # three folds of K = 4
    assert epochs_of(folder, "linear_probe-k4-t000") == list(range(1, 7))


@pytest.mark.usefixtures("extended")
def test_a_changed_study_is_refused_with_the_whole_difference(
    cv: tuple[StudyFolder, Labels], place: Place
) -> None:
    before = all_stamps(cv[0])
    changed = ["study.folds=2", "train.epochs=3", "search.trials=4", "study.draws=2"]
    with pytest.raises(UserError) as refused:
        place.run([*CV, *MORE, *changed])
    first, *lines, last = str(refused.value).splitlines()
    assert first.startswith("study.id=cv was begun with other settings")
    assert sorted(line.strip() for line in lines) == [
        "search.trials: 3 -> 4  (would extend the study)",
        "study.draws: 3 -> 2",
        "study.folds: 3 -> 2",
        "train.epochs: 2 -> 3",
    ]
    assert "choose another study.id" in last
    assert all_stamps(cv[0]) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*CV, "study.resume=never"], "study.resume is never, but the study cv was begun already"),
        ([*CV, "study.resume=must", "study.id=cw"], "there is no study cw in .*did you mean 'cv'"),
        ([*CV[1:], "study.resume=must"], "holds no unfinished study"),
    ],
)
def test_resume_never_and_must_are_refused_before_anything_runs(
    cv: tuple[StudyFolder, Labels], place: Place, words: list[str], told: str
) -> None:
    before = all_stamps(cv[0])
    with pytest.raises(UserError, match=told):
        place.run(words)
    assert all_stamps(cv[0]) == before
    assert not (place.root / "cw").exists()


# a holdout, and a study that goes on without its id


@pytest.fixture(scope="module")
def holdout(place: Place) -> tuple[StudyFolder, str]:
    return place.run(HOLDOUT)


def test_a_holdout_is_remarked_wherever_numbers_are(holdout: tuple[StudyFolder, str]) -> None:
    folder, text = holdout
    results = load(folder.results)
    (remark,) = results["study"]["remarks"]
    assert remark.startswith("Hyperparameters are chosen on a holdout of 3 images beyond the K")
    assert remark in text
    assert remark in (folder.report / "index.html").read_text()
    assert remark in (folder.path / "analysis.md").read_text()
    for table in ("rows", "scores", "trials"):
        metadata = pq.read_schema(folder.report / "tables" / f"{table}.parquet").metadata
        assert json.loads(metadata[b"remarks"]) == [remark]
    # the whole validation split is labelled for the choice
    support = load(folder.draws / "draw-0.json")["support"]["1"]
    assert load(folder.record)["facts"]["labelled"] == {"1": len(support) + 3}


def test_the_same_command_without_an_id_goes_on_with_what_is_unfinished(
    holdout: tuple[StudyFolder, str], place: Place
) -> None:
    folder, _ = holdout
    assert folder.study_id.startswith("held-out-")
    results, trials, fits = load(folder.results), trials_by_key(folder), fit_stamps(folder)
    folder.results.unlink()
    (folder.fits / "linear_probe-k1-d1.json").unlink()
    again, text = place.run([*HOLDOUT, "study.resume=must"])
    assert (again.path, again.study_id) == (folder.path, folder.study_id)
    assert f"study {folder.study_id}, begun " in text
    for part in ("rows", "per_class", "statistics", "front", "search"):
        assert load(folder.results)[part] == results[part], part
    assert trials_by_key(folder) == trials
    now = fit_stamps(folder)
    assert now.keys() == fits.keys()
    assert {key for key in fits if now[key] != fits[key]} == {"linear_probe-k1-d1"}
    assert_finished(runs_by_key(folder), [*trials, "linear_probe-k1-final"])
    # finished again: what the same command would begin now is new
    with pytest.raises(UserError, match="holds no unfinished study 'held out'"):
        place.run([*HOLDOUT, "study.resume=must"])


# shots as a dimension of the search


def test_in_pareto_mode_only_the_front_is_fitted(place: Place) -> None:
    folder, _ = place.run(PARETO)
    results, trials = load(folder.results), trials_by_key(folder)
    assert sorted(trials) == [f"linear_probe-pareto-t00{n}" for n in range(4)]
    labelled = {int(k): n for k, n in load(folder.record)["facts"]["labelled"].items()}
    assert sorted(labelled) == [1, 2, 3]
    points = []
    for trial in trials.values():
        assert trial.state in ("complete", "duplicate")
        assert trial.value is not None
        assert trial.labelled == labelled[trial.shots]
        points.append((labelled[trial.shots], trial.value))
    # a definition of its own: no other trial is at least as cheap and at least as good
    kept = [
        not any(
            other <= cost and better >= value and (other, better) != (cost, value)
            for other, better in points
        )
        for cost, value in points
    ]
    front = sorted({t.shots for t, on in zip(trials.values(), kept, strict=True) if on})
    assert sorted({row["shots"] for row in results["front"] if row["on_front"]}) == front
    assert [row["shots"] for row in results["rows"]] == front
    off = [k for k in (1, 2, 3) if k not in front]
    assert off, "with these images a larger K is no better: it must not be fitted"
    for k in off:
        sentence = f"linear_probe at K = {k} has no score: it is off the front"
        assert any(missing.startswith(sentence) for missing in results["missing"])
    assert sorted(fit_stamps(folder)) == [f"linear_probe-k{k}-d{d}" for k in front for d in (0, 1)]
    assert results["study"]["finished"]
    for row in results["rows"]:
        best = max(
            (t for t in trials.values() if t.shots == row["shots"]), key=lambda t: t.value or 0.0
        )
        assert row["best"] == best.params
    ran = [key for key, trial in trials.items() if trial.state == "complete"]
    assert_finished(runs_by_key(folder), [*ran, *(f"linear_probe-k{k}-final" for k in front)])


# pruning, and hyperparameters of the fit


@pytest.fixture(scope="module")
def race(place: Place) -> StudyFolder:
    return place.run(RACE)[0]


def test_a_race_over_draws_drops_what_is_beaten(race: StudyFolder) -> None:
    trials = trials_by_key(race)
    default, named, *_ = trials.values()
    assert (default.state, len(default.scores)) == ("complete", 3)
    # told as pruned, with what it had shown in two draws, and without the third one
    assert (named.state, len(named.scores)) == ("pruned", 2)
    assert named.params["lr_embedding"] == 1e-9
    assert all(a < b for a, b in zip(named.scores, default.scores, strict=False))
    assert named.value == pytest.approx(sum(named.scores) / 2)
    run = runs_by_key(race)[named.key]
    assert run.data.tags["trial.state"] == "pruned"
    assert run.info.status == "FINISHED"
    assert epochs_of(race, named.key) == [1, 2, 3, 4]
    states = Counter(trial.state for trial in trials.values())
    assert load(race.results)["search"]["trials"] == states
    best = load(race.best)["spa-k1"]
    assert (
        best
        == max(
            (t for t in trials.values() if t.state == "complete"), key=lambda t: t.value or 0.0
        ).params
    )


def test_hyperparameters_of_the_fit_are_searched_and_used(race: StudyFolder) -> None:
    trials = trials_by_key(race)
    default = next(iter(trials.values())).params
    assert (default["epochs"], default["dice_weight"]) == (2, 1.0)
    assert len({trial.params["dice_weight"] for trial in trials.values()}) > 1
    for trial in trials.values():
        assert 0.5 <= trial.params["dice_weight"] <= 2.0
        assert trial.params["epochs"] in (1, 2)
        if trial.state != "duplicate":
            count = len(trial.scores) * trial.params["epochs"]
            assert epochs_of(race, trial.key) == list(range(1, count + 1))
    best = load(race.best)["spa-k1"]
    for draw in range(3):
        fit = load(race.fits / f"spa-k1-d{draw}.json")
        assert fit["hyperparameters"] == best
        assert len(fit["history"]) == best["epochs"]
    assert load(race.results)["rows"][0]["best"] == best


# failures


@pytest.fixture(scope="module")
def tune_shots() -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location("tune_shots", ROOT / "jobs" / "tune_shots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], int] = module.main
    return main


def test_failed_trials_stop_neither_the_study_nor_other_methods(
    place: Place, tune_shots: Callable[[list[str]], int]
) -> None:
    words, folder = place.words(FAILING), StudyFolder(place.root, "failing")
    seen = []
    for _ in range(2):
        errors = io.StringIO()
        with redirect_stderr(errors):
            assert tune_shots(words) == 1
        assert errors.getvalue().endswith("incomplete: no trial of spa-k1 was completed\n")
        seen.append((trials_by_key(folder), fit_stamps(folder), runs_by_key(folder).keys()))
    # nothing of it is tried again
    assert seen[0] == seen[1]

    trials, results, runs = trials_by_key(folder), load(folder.results), runs_by_key(folder)
    causes = {key: trial.cause for key, trial in trials.items() if trial.state == "failed"}
    assert sorted(causes) == ["linear_probe-k1-t001", "spa-k1-t000", "spa-k1-t001"]
    for key, cause in causes.items():
        assert cause is not None
        assert cause.endswith("at epoch 1: the fit diverged")
        assert trials[key].value is None
        assert runs[key].info.status == "FAILED"
        assert runs[key].data.tags["trial.cause"] == cause
        assert runs[key].data.tags["trial.state"] == "failed"
    assert trials["linear_probe-k1-t000"].state == "complete"
    assert sorted(runs) == sorted(["study", *trials, "linear_probe-k1-final"])
    assert runs["study"].info.status == runs["linear_probe-k1-final"].info.status == "FINISHED"

    (row,) = results["rows"]
    assert (row["method"], row["best"]["lr_probe"], len(row["draws"])) == ("linear_probe", 0.05, 2)
    assert list(load(folder.best)) == ["linear_probe-k1"]
    assert results["search"]["trials"] == {"complete": 1, "failed": 3}
    assert {entry["trial"]: entry["cause"] for entry in results["search"]["failed"]} == causes
    lacking = "spa at K = 1 has no score: none of its trials ended well."
    assert results["missing"] == [lacking]
    page = (folder.report / "index.html").read_text()
    assert lacking in page
    assert "the fit diverged" in page
