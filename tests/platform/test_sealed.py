"""Test labels are read once per final fit, by one function, and nothing else can get at them."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from made_data import MadeDataset, bench_over, encoded, pool
from samples import ROOT, STUDIES, write_image_folder

from ssprompt_core.evaluate import evaluate, predict
from ssprompt_core.methods import FewShotModel
from ssprompt_platform.bench import Bench
from ssprompt_platform.config import load_config
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.plan import Group, make_plan
from ssprompt_platform.prepare import prepare
from ssprompt_platform.scoring import confusion, miou_of, score_test
from ssprompt_platform.sealed import SealedDataset

TEST = {**pool(7, "e", 2), "blank": []}


def made() -> MadeDataset:
    return MadeDataset({"train": pool(12, "t"), "val": pool(3, "v", 1), "test": TEST})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    return encoded(made(), tmp_path_factory.mktemp("embeddings"))


def model_of(bench: Bench) -> FewShotModel:
    return bench.model(Group("zero_shot", 1), {}, 0)


def test_test_labels_are_refused_and_nothing_else_is() -> None:
    data = made()
    sealed = SealedDataset(data)
    for view in (sealed, pickle.loads(pickle.dumps(sealed))):
        for image_id in data.ids("test"):
            for ask in (view.label, view.classes_present):
                with pytest.raises(PermissionError, match=f"label of the test image {image_id} "):
                    ask(image_id)
            assert (view.image(image_id) == data.image(image_id)).all()
            assert view.digest(image_id) == data.digest(image_id)
            assert view.label_digest(image_id) == data.label_digest(image_id)
    assert not data.labels_read
    for split in ("train", "val"):
        for image_id in sealed.ids(split):
            assert (sealed.label(image_id) == data.label(image_id)).all()
            assert sealed.classes_present(image_id) == data.classes_present(image_id)
    assert (sealed.name, sealed.class_names) == (data.name, data.class_names)
    assert sealed.thing_classes == data.thing_classes
    assert sealed.ids("test") == tuple(TEST)


def test_nothing_in_the_search_can_read_a_test_label(store: EmbeddingStore) -> None:
    data = made()
    bench = bench_over(SealedDataset(data), store)
    model = model_of(bench)
    with pytest.raises(PermissionError, match="e000"):
        bench.labelled(["t000", "e000"])
    with pytest.raises(PermissionError, match="e001"):
        confusion(bench, model, ["t000", "e001"])
    with pytest.raises(PermissionError, match="e000"):
        bench.fit(
            model,
            ["e000"],
            overrides={},
            epochs=1,
            seed=0,
            checkpoint_every=0,
            report=lambda metrics, state: None,
            get_checkpoint=lambda: None,
        )
    assert not data.labels_read.keys() & TEST.keys()


def test_data_is_checked_before_it_is_sealed_and_a_study_gets_it_sealed(tmp_path: Path) -> None:
    config = load_config(["study=smoke"], STUDIES)
    with pytest.raises(PermissionError, match="test image e000"):
        make_plan(config, SealedDataset(made()))
    words = ["study=smoke", *write_image_folder(tmp_path / "data"), f"storage.root={tmp_path}"]
    prepared = prepare(load_config(words, STUDIES))
    assert isinstance(prepared.dataset, SealedDataset)
    with pytest.raises(PermissionError):
        prepared.dataset.label(prepared.plan.test_ids[0])


def test_a_score_reads_each_test_label_once_and_hands_out_what_pictures_need(
    store: EmbeddingStore,
) -> None:
    data = made()
    bench = bench_over(SealedDataset(data), store)
    model, test_ids = model_of(bench), data.ids("test")
    alone = score_test(bench, model, test_ids)
    assert alone.shown == []
    assert data.labels_read == dict.fromkeys(test_ids, 1)

    pictured = ("blank", test_ids[int(np.nanargmin(alone.score.image_miou))])
    shown = score_test(bench, model, test_ids, pictured, 3)
    assert data.labels_read == dict.fromkeys(test_ids, 2)
    assert shown.score.miou == alone.score.miou
    ranked = sorted(
        (value, number)
        for number, value in enumerate(alone.score.image_miou)
        if not np.isnan(value) and test_ids[number] not in pictured
    )
    assert [image.image_id for image in shown.shown] == [
        *pictured,
        *(test_ids[number] for _, number in ranked[:3]),
    ]
    maps = predict(
        model,
        store.images([data.digest(i) for i in test_ids]),
        [(64, 64)] * len(test_ids),
        batch_size=3,
        device="cpu",
    )
    for image in shown.shown:
        number = test_ids.index(image.image_id)
        assert (image.image == data.image(image.image_id)).all()
        assert (image.truth == data.label(image.image_id)).all()
        assert (image.predicted == maps[number]).all()
        known = alone.score.image_miou[number]
        assert image.miou == (None if image.image_id == "blank" else known)
    assert shown.shown[0].image_id == "blank"


def test_the_score_is_that_of_all_pixels_together(store: EmbeddingStore) -> None:
    data = made()
    bench = bench_over(SealedDataset(data), store)
    model, test_ids = model_of(bench), data.ids("test")
    open_bench = bench.with_dataset(data)
    scores = evaluate(model, open_bench.labelled(test_ids), 3, batch_size=3, device="cpu")
    score = score_test(bench, model, test_ids).score
    assert score.miou == scores.miou
    assert np.array_equal(score.iou, scores.iou, equal_nan=True)
    assert np.array_equal(score.image_miou, scores.image_miou, equal_nan=True)
    with pytest.raises(TypeError, match="sealed"):
        score_test(open_bench, model, test_ids)


def test_confusion_matrices_of_folds_and_of_workers_add_up(store: EmbeddingStore) -> None:
    data = made()
    bench = bench_over(SealedDataset(data), store)
    model, ids = model_of(bench), data.ids("train")
    whole = confusion(bench, model, ids)
    scores = evaluate(model, bench.labelled(ids), 3, batch_size=4, device="cpu")
    assert (whole == scores.confusion).all()
    assert miou_of(whole) == scores.miou
    folds = [confusion(bench, model, part) for part in (ids[:5], ids[5:6], ids[6:])]
    assert (sum(folds) == whole).all()
    # the pooled score is not the mean of the folds' scores
    assert miou_of(whole) != pytest.approx(float(np.mean([miou_of(fold) for fold in folds])))
    assert np.isnan(miou_of(np.zeros((3, 3), np.int64)))


def uses(name: str) -> set[str]:
    """File and function of each use of a name in the project: called, looked up or as text."""
    return {
        f"{path}: {inside}"
        for path, tree in _sources()
        for inside, node in _nodes(tree)
        if name in (getattr(node, key, None) for key in ("attr", "id", "value"))
    }


@cache
def _sources() -> list[tuple[str, ast.AST]]:
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))
        for folder in ("platform", "jobs", "ssprompt_core", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def _nodes(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(tree):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        within = f"{inside}.{child.name}".lstrip(".") if named else inside
        yield within, child
        yield from _nodes(child, within)


def test_one_function_opens_the_test_split_and_one_calls_it() -> None:
    platform = "platform/ssprompt_platform"
    assert uses("open_test") == {f"{platform}/scoring.py: score_test"}
    assert uses("score_test") == {f"{platform}/fitting.py: _Fitting.finish"}


def test_no_code_goes_around_the_seal() -> None:
    platform = "platform/ssprompt_platform"
    inside = {place.split(":")[0] for place in uses("__unsealed")}
    assert inside == {f"{platform}/sealed.py"}
    assert uses("_SealedDataset__unsealed") == set()
    # data that is not sealed: a study's before it is sealed, and what is no study, as all timings
    built = {place for place in uses("build_dataset") if not place.startswith("benchmarks/")}
    assert built == {
        f"{platform}/prepare.py: prepare",
        f"{platform}/use/transfer.py: evaluate_prompts",
    }
    assert uses("unsealed") == {f"{platform}/prepare.py: prepare"}
    for kind in ("FolderDataset", "ProceduralDataset"):
        studies = {place for place in uses(kind) if place.startswith(platform)}
        assert studies == {f"{platform}/sources.py: build_dataset"}
