"""A study in words: the sentences agree with the plan, and remarks come where they belong."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from made_data import MadeDataset, pool
from rich.console import Console
from samples import STUDIES, write_image_folder

from ssprompt_platform.config import Config, load_config
from ssprompt_platform.estimate import search_seconds, trial_count
from ssprompt_platform.explain import explain, plan_facts, protocol, remarks
from ssprompt_platform.plan import StudyPlan, make_plan
from ssprompt_platform.prepare import describe, prepare

DATA = MadeDataset({"train": pool(80, "t"), "val": pool(9, "v", 1), "test": pool(5, "e", 2)})


def planned(*words: str) -> tuple[Config, StudyPlan]:
    config = load_config(["study=smoke", *words], STUDIES)
    return config, make_plan(config, DATA)


def said(*words: str) -> str:
    return "\n".join(protocol(*planned(*words), DATA))


def remarked(*words: str) -> list[str]:
    return remarks(*planned(*words))


def test_the_protocol_names_data_draws_and_counts() -> None:
    config, plan = planned("study.shots=[1,4]", "study.draws=3", "search.draws=2")
    text = "\n".join(protocol(config, plan, DATA))
    assert "made has 3 classes, 80 images in the train pool and 5 in the test split" in text
    assert "drawn from the train pool 3 times (seeds 0 to 2)" in text
    for k in (1, 4):
        counts = sorted(len(draw.support[k]) for draw in plan.draws)
        low, high = counts[0], counts[-1]
        number = str(high) if low == high else f"{low} to {high}"
        assert f"K = {k}: {number} images" in text
    assert "min(K, 4) more labelled images per class" in text
    assert "on 2 support draws" in text
    assert "at most 4 trials in all (2 for each method, K)" in text
    assert f"({len(plan.fits)} fits), by that scoring alone" in text
    assert "zero_shot learns nothing and is scored once" in text
    assert text.count("\n") + 1 == len(protocol(config, plan, DATA))


def test_each_rule_of_selection_names_its_images() -> None:
    folds = said("study.selection=cv", "study.shots=[1,16]", "study.folds=4")
    assert "on the support images alone, in folds" in folds
    assert "leave-one-out" in folds
    assert "in 4 folds" in folds
    held_out = said("study.selection=holdout")
    assert "scored on the whole validation split (K = 1: 9 images; K = 2: 9 images)" in held_out
    assert "No hyperparameter is searched" in said("search.trials=0")


def test_what_ends_trials_fits_and_the_search_is_told() -> None:
    plain = said()
    for word in ("halving", "paired t-test", "minute", "GPU-hour", "expected", "best epoch"):
        assert word not in plain
    halving = ["search.pruning.over=epochs", "search.pruning.first_epoch=3", "train.epochs=20"]
    assert "rungs at epoch 3 and at each 3 times the last" in said(*halving)
    race = said("search.pruning.over=draws", "search.draws=3", "study.draws=3")
    assert "paired t-test" in race
    budget = said(
        "search.budget.minutes=1", "search.budget.gpu_hours=2", "search.budget.min_gain=.01"
    )
    assert "after 1 minute, or after 2 GPU-hours, or for a method and K as soon as" in budget
    assert "0.01 mIoU" in budget
    assert "without a better mIoU on the very images that it is trained on" in said(
        "train.patience=2"
    )
    known = said("search.enqueue=[{lr_embedding: 0.2}]", "search.warm_start=true")
    assert (
        "first the default setting, 1 known setting and the best setting of the K before" in known
    )
    assert "default setting" not in said("search.sampler=grid")


def test_pareto_names_the_price_of_each_k() -> None:
    config, plan = planned("study.mode=pareto", "search.trials=5")
    text = "\n".join(protocol(config, plan, DATA))
    assert f"K = 1: {plan.labelled[1]:g}; K = 2: {plan.labelled[2]:g}" in text
    assert trial_count(config, plan) == 5
    assert f"at most {len(plan.fits)} fits" in text


def test_a_plain_study_has_no_remark() -> None:
    assert remarked() == []


def test_a_holdout_is_remarked() -> None:
    (only,) = remarked("study.selection=holdout")
    assert "holdout of 9 images beyond the K shots" in only
    assert "more than K labelled images" in only
    assert remarked("study.selection=holdout", "search.trials=0") == []


def test_leaving_one_out_of_few_is_remarked_where_it_happens() -> None:
    (only,) = remarked("study.selection=cv", "study.shots=[1,16]", "study.folds=4")
    assert only.startswith("With K = 1 hyperparameters are chosen by leave-one-out over only")
    (both,) = remarked("study.selection=cv", "study.shots=[1,2]", "study.folds=50")
    assert both.startswith("With K = 1 and 2 ")
    assert remarked("study.selection=cv", "study.shots=[16]", "study.folds=2") == []


def test_a_time_budget_and_a_single_draw_are_remarked() -> None:
    assert remarked("search.epochs=1") == []
    (timed,) = remarked("search.budget.minutes=30")
    assert "ended by time (after 30 minutes)" in timed
    assert remarked("search.budget.min_gain=0.01") == []
    (single,) = remarked("study.draws=1")
    assert "one support draw" in single
    assert remarked("study.draws=1", "study.methods=[zero_shot]") == []


def test_facts_are_what_tables_need_and_are_json() -> None:
    config, plan = planned("study.shots=[1,4]", "study.draws=3")
    facts = json.loads(json.dumps(plan_facts(config, plan, DATA)))
    assert facts.keys() == {
        "data", "classes", "things", "train_pool", "test_images", "test_ids", "labelled",
        "support_images", "model", "text_encoder", "groups", "fits", "searched",
    }  # fmt: skip
    assert (facts["classes"], facts["things"]) == (["sky", "road", "car"], [2])
    assert facts["labelled"] == {"1": plan.labelled[1], "4": plan.labelled[4]}
    assert facts["support_images"]["4"] == [len(draw.support[4]) for draw in plan.draws]
    assert facts["searched"] == [["ssprompt", 1], ["ssprompt", 4]]
    assert len(facts["fits"]) == len(plan.fits) == 7
    assert facts["test_ids"] == list(DATA.ids("test"))


def test_an_explanation_counts_the_images_of_each_draw_and_writes_nothing(tmp_path: Path) -> None:
    words = ["study=smoke", *write_image_folder(tmp_path / "data"), "study.dry_run=true"]
    root = tmp_path / "runs"
    prepared = prepare(load_config([*words, f"storage.root={root}"], STUDIES))
    lines = explain(prepared)
    plan = prepared.plan
    for k in (1, 2):
        for number in (0, 1):
            (line,) = [text for text in lines if text.startswith(f"  K = {k}, draw {number}:")]
            assert f"fitted on {len(plan.draws[number].support[k])} image" in line
            assert ("settings selected on" in line) == (number == 0)
    used = len(plan.image_ids())
    assert any(f"sees {used} images; of {used} that are used, 0 are stored" in x for x in lines)
    assert lines[-1] == f"Scored on {len(plan.test_ids)} test images, once in each final fit"
    for sentence in protocol(prepared.config, plan, prepared.dataset):
        assert f"  {sentence}" in lines
    assert not root.exists()


def test_a_dry_run_says_what_is_selected_on_and_what_the_estimate_leaves_out(
    tmp_path: Path,
) -> None:
    words = ["study=smoke", *write_image_folder(tmp_path / "data"), "study.dry_run=true"]
    words += [f"storage.root={tmp_path / 'runs'}", "study.shots=[2,4]", "study.selection=cv"]
    words += ["search.budget.min_gain=0.01", "study.mode=per_shot", "train.steps_per_epoch=1"]
    prepared = prepare(load_config(words, STUDIES))
    console = Console(file=io.StringIO(), width=200)
    describe(prepared, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    counts = [len(prepared.plan.draws[0].support[k]) for k in (2, 4)]
    assert f"support images, in folds: {counts[0]} at K = 2, {counts[1]} at K = 4" in text
    assert "trials          4 (2 for each of 2 method x K)" in text
    assert "at most, since search.budget may end trials or the search early" in text
    assert not (tmp_path / "runs").exists()


def test_an_estimate_counts_every_fold_and_takes_each_k_equally_often() -> None:
    config, plan = planned("study.selection=cv", "study.shots=[2,4]", "study.folds=3")
    # one second a fit, none a score: three folds of one draw at two K
    assert search_seconds(config, plan, "ssprompt", 1.0, 0.0) == 2 * (3 + 3)
    # each support image is scored once a trial
    images = sum(len(plan.draws[0].support[k]) for k in (2, 4))
    assert search_seconds(config, plan, "ssprompt", 0.0, 1.0) == 2 * images
    assert search_seconds(config, plan, "zero_shot", 1.0, 1.0) == 0
    config, plan = planned("study.mode=pareto", "study.shots=[2,4]", "search.draws=2")
    assert search_seconds(config, plan, "ssprompt", 1.0, 0.0) == 2 * 2


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.yaml")))
def test_every_study_file_can_be_planned_and_told(name: str) -> None:
    config = load_config([f"study={name}"], STUDIES)
    assert config.study.name == name
    plan = make_plan(config, DATA)
    assert {group.method for group in plan.groups} == set(config.study.methods)
    assert all(plan.folds.values())
    assert bool(plan.searched) == bool(config.search.trials)
    assert protocol(config, plan, DATA)
    assert trial_count(config, plan) >= config.search.trials
