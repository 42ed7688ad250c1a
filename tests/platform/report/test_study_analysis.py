"""The tables and pictures that a finished study gets, from real fits made in this process."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_fits import small_bench

from ssprompt_core.analysis.attention import AttentionUnavailableError
from ssprompt_platform.final import FinalBench, load_shown, read_fits, run_fit
from ssprompt_platform.plan import FitKey, Group, StudyPlan
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.analysis import (
    Analysis,
    Exhibit,
    analyse,
    main_method,
    shown_fits,
    worst_shown,
    write_index,
)
from ssprompt_platform.report.attention import attention_maps, attention_rows
from ssprompt_platform.report.figures_attention import AttentionMaps
from ssprompt_platform.report.prompt_tables import (
    flat_names,
    name_rows,
    read_prompts,
    weight_rows,
    weight_summary,
    write_csv,
)
from ssprompt_platform.report.tables import make_per_class, make_rows
from ssprompt_platform.sealed import SealedDataset
from ssprompt_platform.shown import ShownImage

METHODS = ("zero_shot", "linear_probe", "sem_weight_only", "ssprompt")
NAMES = ("ground", "box", "ball")


@dataclass
class Finished:
    """A study whose fits are done."""

    prepared: Prepared
    final: FinalBench
    fits: dict[FitKey, dict[str, Any]]

    def analysis(self) -> Analysis:
        groups, things = self.prepared.plan.groups, frozenset({1, 2})
        rows = make_rows(groups, self.fits, things, self.prepared.plan.labelled)
        classes = make_per_class(groups, self.fits, NAMES, things)
        return analyse(self.prepared, self.final, self.fits, rows, classes)


def finish(folder: Path, methods: tuple[str, ...], *words: str) -> Finished:
    """Fit everything of a small study for two steps, without a cluster."""
    prepared, final = small_bench(folder, methods, *words)
    for key in final.plan.fits:
        run_fit(final, key)
    return Finished(prepared, final, read_fits(final.plan, final.fits))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("study"), METHODS)


@pytest.fixture(scope="module")
def analysis(finished: Finished) -> Analysis:
    return finished.analysis()


def table(finished: Finished, name: str) -> list[dict[str, str]]:
    with (finished.prepared.folder.path / "tables" / name).open() as file:
        return list(csv.DictReader(file))


def test_every_exhibit_is_there_and_in_the_index(finished: Finished, analysis: Analysis) -> None:
    folder = finished.prepared.folder
    names = {exhibit.path.relative_to(folder.path).as_posix() for exhibit in analysis.exhibits}
    pictures = {"per-class", "weights", "failures", "attention", "attention-prompts"}
    tables = {"per-class", "weights", "nearest-names", "image-scores", "attention"}
    assert names == {f"pictures/{n}.png" for n in pictures} | {f"tables/{n}.csv" for n in tables}
    assert all(exhibit.path.stat().st_size > 100 for exhibit in analysis.exhibits)
    assert analysis.missing == []
    text = write_index(folder, analysis.exhibits, ["Nothing: of the kind."]).read_text()
    for exhibit in analysis.exhibits:
        assert f"]({exhibit.path.relative_to(folder.path).as_posix()}): {exhibit.reading}" in text
    assert "- Nothing: of the kind." in text


def test_image_scores_are_those_of_the_predictions(finished: Finished, analysis: Analysis) -> None:
    plan = finished.prepared.plan
    key = FitKey("ssprompt", 2, 0)
    scores = finished.fits[key]["image_miou"]
    assert len(scores) == len(plan.test_ids)
    shown = load_shown(finished.final.fits, key)
    for image in shown:
        ious = []
        for c in np.unique(image.truth):
            both = (image.truth == c) & (image.predicted == c)
            either = (image.truth == c) | (image.predicted == c)
            ious.append(both.sum() / either.sum())
        assert image.miou == scores[plan.test_ids.index(image.image_id)]
        assert image.miou == pytest.approx(np.mean(ious))
    worst = sorted(range(len(scores)), key=lambda number: scores[number])[:4]
    assert [f["image"] for f in analysis.record["failures"]] == [plan.test_ids[n] for n in worst]
    failure = analysis.record["failures"][0]
    (kept,) = (image for image in shown if image.image_id == failure["image"])
    assert failure["miou"] == min(scores)
    assert failure["wrong"] == pytest.approx((kept.predicted != kept.truth).mean())
    rows = table(finished, "image-scores.csv")
    assert [row["image"] for row in rows] == list(plan.test_ids)
    assert float(rows[0]["ssprompt"]) == pytest.approx(scores[0], rel=1e-5)
    assert set(rows[0]) == {"image", *METHODS}


def test_the_analysis_reads_no_test_label(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set stays sealed, and nothing opens it."""

    def refuse(_: SealedDataset) -> None:
        raise AssertionError("opened for the report")

    monkeypatch.setattr(SealedDataset, "open_test", refuse)
    assert len(finished.analysis().record["failures"]) == 4


def test_a_study_with_failed_fits_shows_the_others(finished: Finished) -> None:
    lost = FitKey("ssprompt", 2, 0)
    fits = {key: record for key, record in finished.fits.items() if key != lost}
    analysis = replace(finished, fits=fits).analysis()
    assert {f["method"] for f in analysis.record["failures"]} == {"sem_weight_only"}
    assert "ssprompt" not in table(finished, "image-scores.csv")[0]
    plan, folder = finished.prepared.plan, finished.final.fits
    before = set(read_prompts(plan, folder))
    record = folder / f"{lost.name}.json"
    moved = record.rename(record.with_suffix(".moved"))
    try:
        assert set(read_prompts(plan, folder)) == before - {lost}
    finally:
        moved.rename(record)
    assert lost in before


def test_weights_are_those_of_the_prompt_files(finished: Finished, analysis: Analysis) -> None:
    rows = table(finished, "weights.csv")
    assert {(r["method"], r["side"]) for r in rows} == {
        ("sem_weight_only", "semantic"), ("ssprompt", "spatial"), ("ssprompt", "semantic"),
    }  # fmt: skip
    tensors = load_file(finished.final.fits / "ssprompt-k2-d1.safetensors")
    own = [r for r in rows if (r["method"], r["shots"], r["draw"]) == ("ssprompt", "2", "1")]
    for side, names in (("spatial", ["1", "2", "3", "4"]), ("semantic", list(NAMES))):
        of_side = [r for r in own if r["side"] == side]
        assert [r["prompt"] for r in of_side] == names
        expected = tensors[f"resolved.{side}_weight"][:, 0]
        assert [float(r["w"]) for r in of_side] == pytest.approx(expected.tolist(), rel=1e-5)
    summary = analysis.record["weights"]
    assert len(summary) == 3 * 2
    assert all(0 < s["min"] <= s["mean"] <= s["max"] < 1 for s in summary)


def test_names_are_of_methods_with_learned_semantic_prompts(
    finished: Finished, analysis: Analysis
) -> None:
    rows = analysis.record["nearest_names"]
    # a default prompt that is only scaled keeps its direction
    scaled = [row for row in rows if row["method"] == "sem_weight_only"]
    assert all(row["nearest"][0]["name"] == row["class"] for row in scaled)
    assert all(row["cosine_own"] == pytest.approx(1) for row in scaled)
    assert {row["method"] for row in rows} == {"sem_weight_only", "ssprompt"}
    assert all(row["draws"] == 2 for row in rows)
    assert len(table(finished, "nearest-names.csv")) == len(rows) == 2 * 2 * 3


def test_attention_is_of_the_main_method(finished: Finished, analysis: Analysis) -> None:
    record = analysis.record["attention"]
    assert (record["method"], record["shots"], record["draw"]) == ("ssprompt", 2, 0)
    assert record["images"] == list(finished.final.pictured)
    rows = table(finished, "attention.csv")
    assert len(rows) == 2 * 4
    assert record["moved"] == pytest.approx(np.mean([float(r["moved"]) for r in rows]), rel=1e-4)
    assert all(float(r["default_peak"]) >= 1 for r in rows)


def test_attention_follows_the_way_of_decoding(tmp_path: Path) -> None:
    study = finish(tmp_path, ("xy_points",), "study.shots=[1]", "study.draws=1",
                   "search.space.decoding.choices=[one_pass]")  # fmt: skip
    assert study.analysis().record["attention"]["method"] == "xy_points"
    moved = [float(row["moved"]) for row in table(study, "attention.csv")][:4]
    (prompts,) = read_prompts(study.prepared.plan, study.final.fits).values()
    for one_pass in (True, False):
        image_id = study.final.pictured[0]
        maps = attention_maps(study.prepared, prompts, image_id, one_pass=one_pass)
        expected = [row["moved"] for row in attention_rows(maps)]
        assert (moved == pytest.approx(expected, rel=1e-4)) is one_pass


def test_a_model_without_readable_attention_says_so(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AttentionUnavailableError("the model 'other' has none")

    monkeypatch.setattr("ssprompt_platform.report.attention.spatial_attention", refuse)
    analysis = finished.analysis()
    assert analysis.record["attention"] is None
    assert analysis.missing == ["Attention: the model 'other' has none."]
    assert len(analysis.exhibits) == 7


def test_fits_of_an_older_version_have_no_failure_cases(finished: Finished) -> None:
    old = {key: {k: v for k, v in record.items() if k != "image_miou"}
           for key, record in finished.fits.items()}  # fmt: skip
    analysis = replace(finished, fits=old).analysis()
    assert analysis.record["failures"] == []
    assert len(analysis.missing) == 1
    assert "older version" in analysis.missing[0]


def test_a_study_without_learned_prompts_names_what_it_lacks(tmp_path: Path) -> None:
    analysis = finish(tmp_path, ("zero_shot", "linear_probe"), "study.shots=[1]").analysis()
    assert [sentence.split(":")[0] for sentence in analysis.missing] == [
        "Learned weights", "Nearest class names", "Attention",
    ]  # fmt: skip
    assert {e.path.name for e in analysis.exhibits} == {
        "per-class.png", "per-class.csv", "failures.png", "image-scores.csv",
    }  # fmt: skip
    assert {f["method"] for f in analysis.record["failures"]} == {"linear_probe"}


@pytest.mark.parametrize(
    ("methods", "main"),
    [
        (["zero_shot", "ssprompt", "sem"], "ssprompt"),
        (["spa", "zero_shot"], "spa"),
        (["zero_shot"], "zero_shot"),
    ],
)
def test_the_main_method_is_ssprompt_or_the_last_that_learns(methods: list[str], main: str) -> None:
    assert main_method(methods) == main


def test_shown_fits_are_of_the_largest_k_and_the_first_draw(finished: Finished) -> None:
    shown = shown_fits(finished.prepared.plan)
    assert {key.name for key in shown.values()} == {
        "zero_shot-k1-d0", "linear_probe-k2-d0", "sem_weight_only-k2-d0", "ssprompt-k2-d0",
    }  # fmt: skip


def shown(image_id: str, miou: float | None) -> ShownImage:
    plain = np.zeros((2, 2), np.uint8)
    return ShownImage(image_id, np.zeros((2, 2, 3), np.uint8), plain, plain, miou)


def test_the_worst_images_come_first_and_those_without_a_score_never() -> None:
    scores = {"a": 0.5, "b": None, "c": 0.1, "d": 0.1, "e": 0.0, "f": 0.9}
    images = [shown(name, value) for name, value in scores.items()]
    assert [image.image_id for image in worst_shown(images)] == ["e", "c", "d", "a"]
    assert worst_shown([shown("b", None)]) == []


def prompt_files() -> dict[FitKey, dict[str, torch.Tensor]]:
    """Two draws of sem over three classes; draw 1 learned the names of 0 and 1 exchanged."""
    names = torch.eye(3, 4)
    semantic = (names.clone(), names[[1, 0, 2]])
    weight = torch.tensor([[0.1, 0.3], [0.5, 0.5], [0.9, 0.7]])
    semantic[0][0] = torch.tensor([0.8, 0.6, 0.0, 0.0])
    return {
        FitKey("sem", 1, draw): {
            "resolved.names": names,
            "resolved.semantic": semantic[draw],
            "resolved.semantic_weight": weight - draw / 20,
        }
        for draw in (0, 1)
    }


def test_exact_cosines_and_counts_of_nearest_names() -> None:
    plan = StudyPlan((), (Group("sem", 1),), (), (), {}, {}, ())
    first, second, third = name_rows(plan, prompt_files(), NAMES)
    assert first["own_first"] == 1
    assert first["cosine_own"] == pytest.approx(0.4)
    assert [n["name"] for n in first["nearest"]] == ["box", "ground", "ball"]
    assert [n["cosine"] for n in first["nearest"]] == pytest.approx([0.8, 0.4, 0.0])
    assert (second["own_first"], third["own_first"]) == (1, 2)
    flat = flat_names([first])[0]
    assert (flat["name_1"], flat["cosine_2"]) == ("box", pytest.approx(0.4))
    assert "nearest" not in flat


def test_weights_per_dimension_are_summed_up() -> None:
    rows = weight_rows(prompt_files(), NAMES)
    assert len(rows) == 6
    assert (rows[0]["w"], rows[0]["w_min"], rows[0]["w_max"]) == pytest.approx((0.2, 0.1, 0.3))
    (summary,) = weight_summary(rows)
    assert summary["prompts"] == list(NAMES)
    assert summary["w"] == pytest.approx([0.175, 0.475, 0.775])
    assert summary["mean"] == pytest.approx(0.475)
    assert (summary["min"], summary["max"]) == pytest.approx((0.15, 0.8))


def test_attention_rows_of_known_maps() -> None:
    default, learned = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), np.float32)
    default[:, 0, 0] = 1
    learned[0, 0, 0] = 1
    learned[1, 3, 3] = learned[1, 3, 1] = 0.5
    points = np.array([[0.25, 0.5], [0.75, 0.5]], np.float32)
    rows = attention_rows(
        AttentionMaps("a", np.zeros((8, 8, 3), np.uint8), points, default, learned)
    )
    assert [row["moved"] for row in rows] == [0, 1]
    assert [row["learned_peak"] for row in rows] == [16, 8]
    assert (rows[1]["learned_x"], rows[1]["learned_y"]) == (0.625, 0.875)
    assert (rows[1]["default_x"], rows[1]["x"], rows[1]["prompt"]) == (0.125, 0.75, 2)


def test_csv_files_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    write_csv(path, [{"name": 'a "b", c', "x": 1 / 3, "n": None}, {"name": "d", "x": 2.0, "n": 3}])
    assert path.read_text() == 'name,x,n\n"a ""b"", c",0.333333,\nd,2,3\n'


def test_the_index_links_relative_to_the_study(finished: Finished) -> None:
    folder = finished.prepared.folder
    text = write_index(folder, [Exhibit(folder.pictures / "a.png", "how")], []).read_text()
    assert "- [pictures/a.png](pictures/a.png): how" in text
    assert "Not available" not in text
    assert str(folder.path) not in text
