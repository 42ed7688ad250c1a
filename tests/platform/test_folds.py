"""What a trial fits and scores: folds inside the K shots, more shots, or the validation split."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import MadeDataset, bench_over, encoded, pool
from samples import STUDIES

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.config import load_config
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.plan import Group, StudyPlan, make_plan
from ssprompt_platform.scoring import confusion, miou_of

DATA = MadeDataset({"train": pool(80, "t"), "val": pool(9, "v", 1), "test": pool(5, "e", 2)})

CV = load_config(["study=smoke", "study.selection=cv"], STUDIES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    part = MadeDataset({"train": {"t001": DATA.classes_present("t001")}, "val": pool(9, "v", 1)})
    return encoded(part, tmp_path_factory.mktemp("embeddings"))


def plan_of(*words: str, data: MadeDataset = DATA) -> StudyPlan:
    base = ["study=smoke", "study.methods=[zero_shot,spa,linear_probe]"]
    return make_plan(load_config([*base, *words], STUDIES), data)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), folds=st.integers(2, 7), k=st.integers(1, 8))
def test_cross_validation_scores_each_support_image_once(seed: int, folds: int, k: int) -> None:
    config = deepcopy(CV)
    config.study.seed, config.study.folds, config.study.shots = seed, folds, [k]
    plan = make_plan(config, DATA)
    parts, support = plan.folds[0, k], plan.draws[0].support[k]
    assert len(parts) == min(folds, len(support))
    scored = [image_id for fold in parts for image_id in fold.score_ids]
    assert sorted(scored) == sorted(support)
    sizes = [len(fold.score_ids) for fold in parts]
    assert max(sizes) - min(sizes) <= 1
    for fold in parts:
        assert set(fold.fit_ids) == set(support) - set(fold.score_ids)
        assert len(set(fold.fit_ids)) == len(fold.fit_ids)
    assert plan.labelled == {k: len(support)}
    assert not plan.draws[0].selection


def test_few_images_are_left_out_one_by_one() -> None:
    plan = plan_of("study.selection=cv", "study.folds=50", "study.shots=[2]")
    assert all(len(fold.score_ids) == 1 for fold in plan.folds[0, 2])
    assert len(plan.folds[0, 2]) == len(plan.draws[0].support[2])


def test_folds_are_shuffled_by_the_seed_alone() -> None:
    words = ("study.selection=cv", "study.shots=[8]", "study.folds=3")
    plan = plan_of(*words)
    assert plan_of(*words).folds == plan.folds
    in_order = tuple(i for fold in plan.folds[0, 8] for i in fold.score_ids)
    assert in_order != plan.draws[0].support[8]
    parts = {frozenset(fold.score_ids) for fold in plan.folds[0, 8]}
    # the second draw of a study is the first one of the next seed
    more = plan_of(*words, "study.seed=1")
    assert parts != {frozenset(fold.score_ids) for fold in more.folds[0, 8]}


@pytest.mark.parametrize("selection", ["extra_shots", "cv", "holdout"])
def test_more_shots_and_draws_change_no_fold_that_was_there(selection: str) -> None:
    words = (f"study.selection={selection}", "search.draws=2")
    before = plan_of(*words, "study.shots=[2,4]", "study.draws=2")
    after = plan_of(*words, "study.shots=[1,2,4,8]", "study.draws=4")
    assert {key: after.folds[key] for key in before.folds} == before.folds
    assert before.folds.keys() == {(0, 2), (0, 4), (1, 2), (1, 4)}
    assert {k: after.labelled[k] for k in before.labelled} == before.labelled


def test_one_support_image_cannot_be_folded() -> None:
    data = MadeDataset({"train": {f"t{n}": [0, 1, 2] for n in range(20)}, "test": {"e": [0, 1, 2]}})
    with pytest.raises(UserError, match=r"study\.selection is cv.*K = 1, draw 0.*extra_shots"):
        plan_of("study.selection=cv", data=data)
    # what is not searched needs no folds
    assert not plan_of("study.selection=cv", "search.trials=0", data=data).folds


@pytest.mark.parametrize(
    ("selection", "more"), [("extra_shots", True), ("cv", False), ("holdout", True)]
)
def test_the_price_of_a_k_is_every_labelled_image_that_is_used(selection: str, more: bool) -> None:
    plan = plan_of(f"study.selection={selection}", "search.draws=2", "study.shots=[1,4]")
    for k in (1, 4):
        prices = []
        for number in (0, 1):
            used = {i for fold in plan.folds[number, k] for i in (*fold.fit_ids, *fold.score_ids)}
            prices.append(len(used | set(plan.draws[number].support[k])))
            assert used > set(plan.draws[number].support[k]) if more else True
        assert plan.labelled[k] == sum(prices) / 2
        assert (plan.labelled[k] > sum(len(plan.draws[n].support[k]) for n in (0, 1)) / 2) == more


def test_without_a_search_a_k_costs_its_support_alone() -> None:
    plan = plan_of("search.trials=0")
    assert plan.labelled == {k: len(plan.draws[0].support[k]) for k in (1, 2)}
    assert not any(draw.selection for draw in plan.draws)


def test_the_validation_split_is_used_when_asked_for() -> None:
    plan = plan_of("study.selection=holdout")
    for k in (1, 2):
        (fold,) = plan.folds[0, k]
        assert fold.score_ids == DATA.ids("val")
        assert fold.fit_ids == plan.draws[0].support[k]
        assert plan.labelled[k] == len(fold.fit_ids) + 9


def test_a_missing_validation_split_is_named() -> None:
    data = MadeDataset({"train": pool(30, "t"), "test": pool(3, "e")})
    with pytest.raises(UserError, match=r"study\.selection is holdout.*'made' has no validation"):
        plan_of("study.selection=holdout", data=data)


@pytest.mark.parametrize("selection", ["extra_shots", "cv", "holdout"])
def test_nothing_is_selected_on_test_images_or_on_what_was_fitted(selection: str) -> None:
    plan = plan_of(f"study.selection={selection}", "search.draws=2", "study.shots=[1,2,4]")
    for folds in plan.folds.values():
        for fold in folds:
            assert fold.fit_ids
            assert fold.score_ids
            assert not {*fold.fit_ids, *fold.score_ids} & set(DATA.ids("test"))
            assert not set(fold.fit_ids) & set(fold.score_ids)
        for one, other in combinations(folds, 2):
            assert not set(one.score_ids) & set(other.score_ids)
    used = plan.image_ids()
    assert len(used) == len(set(used))
    wanted = {i for folds in plan.folds.values() for f in folds for i in (*f.fit_ids, *f.score_ids)}
    wanted |= {i for draw in plan.draws for i in draw.support[4]} | set(plan.test_ids)
    assert set(used) == wanted


def test_a_restricted_plan_has_the_rows_and_fits_of_its_groups() -> None:
    plan = plan_of("study.shots=[1,2,4]", "study.draws=2")
    kept = {Group("spa", 2), Group("linear_probe", 4), Group("zero_shot", 4)}
    less = plan.restricted(kept)
    assert less.groups == tuple(group for group in plan.groups if group in kept)
    assert {group for group in plan.searched if group in kept} == set(less.searched)
    assert [key.name for key in less.fits] == [
        "spa-k2-d0", "spa-k2-d1", "linear_probe-k4-d0", "linear_probe-k4-d1", "zero_shot-k1-d0",
    ]  # fmt: skip
    assert (less.draws, less.folds, less.test_ids) == (plan.draws, plan.folds, plan.test_ids)
    assert not plan.restricted({Group("spa", 2)}).restricted({Group("spa", 4)}).fits


@pytest.mark.parametrize("method", [name for name, spec in METHODS.items() if spec.uses_support])
def test_a_fold_whose_fit_lacks_a_class_can_be_fitted_and_scored(
    method: str, store: EmbeddingStore
) -> None:
    bench = bench_over(DATA, store)
    model = bench.model(Group(method, 1), {}, 0)
    result = bench.fit(
        model,
        ["t001"],
        overrides={},
        epochs=1,
        seed=0,
        checkpoint_every=0,
        report=lambda metrics, state: None,
        get_checkpoint=lambda: None,
    )
    assert math.isfinite(result.loss)
    assert len(DATA.classes_present("t001")) < 3
    scored = [i for i in DATA.ids("val") if DATA.classes_present(i) - DATA.classes_present("t001")]
    assert 0 <= miou_of(confusion(bench, model, scored)) <= 1
