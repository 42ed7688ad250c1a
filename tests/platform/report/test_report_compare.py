"""Two studies are compared draw by draw, where they are of the same images, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study_folder import write_study

from ssprompt_core.errors import UserError
from ssprompt_platform.plan import FitKey
from ssprompt_platform.report.compare import Comparison, compare
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.storage import StudyFolder, read_json, write_json

METHODS = ["zero_shot", "spa", "ssprompt"]


def made(root: Path, name: str, **settings: Any) -> StudyFolder:
    settings = {"methods": METHODS, "shots": [1, 4], "trials": 0, **settings}
    return write_study(root, name, **settings)


def edit(folder: StudyFolder, **groups: dict[str, Any]) -> StudyData:
    """Change parts of a study's record, two levels deep, and read the study."""
    record = read_json(folder.record)
    for group, values in groups.items():
        record[group] |= values
    write_json(folder.record, record)
    return gather(folder)


@pytest.fixture
def first(tmp_path: Path) -> StudyData:
    return gather(made(tmp_path, "one", failed=[("spa", 4, 1)]))


def row_of(comparison: Comparison, method: str, shots: int) -> dict[str, Any]:
    return next(r for r in comparison.rows if (r["method"], r["shots"]) == (method, shots))


def test_differences_are_over_the_draws_that_both_have(first: StudyData, tmp_path: Path) -> None:
    second = gather(made(tmp_path, "two", better=0.05, failed=[("spa", 4, 3)]))
    found = compare(first, second)
    assert [(row["method"], row["shots"]) for row in found.rows] == [
        (method, k) for method in METHODS for k in (1, 4)
    ]
    row = row_of(found, "spa", 4)
    ones, twos = (
        np.array([data.fits[FitKey("spa", 4, d)]["miou"] for d in (0, 2, 4)])
        for data in (first, second)
    )
    expected = stats.ttest_rel(ones, twos)
    assert row["n"] == 3
    assert row["difference"] == pytest.approx((ones - twos).mean())
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["ci95"] == pytest.approx(list(expected.confidence_interval(0.95)))
    # the means are those of the tables: over all draws of each
    means = [r["mean"] for d in (first, second) for r in d.rows
             if (r["method"], r["shots"]) == ("spa", 4)]  # fmt: skip
    assert [row["first"], row["second"]] == means


def test_tests_are_corrected_over_everything_that_is_compared(
    first: StudyData, tmp_path: Path
) -> None:
    # equal studies: the difference has no spread that it could be held against
    found = compare(first, gather(made(tmp_path, "two")))
    assert {row["p"] for row in found.rows} == {None}
    assert "the same in all 5 draws" in row_of(found, "ssprompt", 1)["statement"]

    second = made(tmp_path, "three")
    rng = np.random.default_rng([7])
    for path in sorted(second.fits.glob("s*.json")):
        record = read_json(path)
        record["miou"] += 0.06 + rng.normal(0, 0.01)
        write_json(path, record)
    rows = compare(first, gather(second)).rows
    tested = [row for row in rows if row["p"] is not None]
    assert len(tested) == 4
    assert {row["family_size"] for row in tested} == {4}
    assert min(row["p_holm"] for row in tested) == pytest.approx(4 * min(r["p"] for r in tested))
    for row in tested:
        assert row["p_holm"] >= row["p"]
        assert row["significant"] == (row["p_holm"] < 0.05)
    row = row_of(compare(first, gather(second)), "ssprompt", 4)
    assert row["significant"]
    assert row["statement"].startswith("ssprompt at K = 4 is better in three than in one by .0")


def test_what_learns_nothing_is_compared_without_a_test(first: StudyData, tmp_path: Path) -> None:
    row = row_of(compare(first, gather(made(tmp_path, "two"))), "zero_shot", 4)
    assert (row["difference"], row["n"], row["p"], row["significant"]) == (0.0, 1, None, False)
    assert row["statement"] == (
        "zero_shot learns nothing and has one score in each study: the difference is .000"
    )


def test_settings_and_weights_that_differ_are_listed(first: StudyData, tmp_path: Path) -> None:
    record = read_json(made(tmp_path, "two").record)
    record["config"]["train"]["epochs"] = 20
    record["config"]["train"]["workers"] = 9  # changes no number
    record["fingerprints"]["segmenter"] = "other"
    record["facts"]["model"] = "vit_b"
    write_json(tmp_path / "two" / "study.json", record)
    found = compare(first, gather(StudyFolder(tmp_path, "two")))
    assert found.changes == {"train.epochs": (10, 20)}
    assert found.notes == ["The frozen model differs: small and vit_b."]
    record["facts"]["model"] = "small"
    write_json(tmp_path / "two" / "study.json", record)
    found = compare(first, gather(StudyFolder(tmp_path, "two")))
    assert found.notes == ["The weights of the frozen model small differ."]


def test_draws_of_other_support_images_are_no_pairs(first: StudyData, tmp_path: Path) -> None:
    found = compare(first, gather(made(tmp_path, "two", seed=5)))
    # what sees no support image has the same test images, and is compared
    assert {row["method"] for row in found.rows} == {"zero_shot"}
    assert found.changes == {"study.seed": (0, 5)}
    assert found.notes == [
        "No draw of spa at K = 1, spa at K = 4, ssprompt at K = 1, ssprompt at K = 4 has the same "
        "support images in both studies: without pairs, their means say nothing about a difference."
    ]


def test_what_only_one_study_has_is_named(first: StudyData, tmp_path: Path) -> None:
    second = gather(made(tmp_path, "two", methods=["zero_shot", "spa"], shots=[1, 4, 16]))
    found = compare(first, second)
    assert {(row["method"], row["shots"]) for row in found.rows} == {
        (method, k) for method in ("zero_shot", "spa") for k in (1, 4)
    }
    assert found.notes == [
        "Only one has scores of ssprompt at K = 1, ssprompt at K = 4.",
        "Only two has scores of zero_shot at K = 16, spa at K = 16.",
    ]


def test_unfinished_studies_are_compared_as_far_as_they_are(
    first: StudyData, tmp_path: Path
) -> None:
    half = gather(made(tmp_path, "two", stage="fitting"))
    assert {row["n"] for row in compare(first, half).rows} <= {1, 2, 3}
    assert compare(first, gather(made(tmp_path, "three", stage="begun"))).rows == []


def test_studies_of_other_images_are_refused(first: StudyData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one and two cannot be compared: the images, labels or"):
        compare(first, gather(made(tmp_path, "two", data="streets")))
    with pytest.raises(
        UserError,
        match=r"scored on different test images \(6 and 4, 4 of them the same\); run one again",
    ):
        compare(first, gather(made(tmp_path, "three", test_images=4)))
    with pytest.raises(UserError, match="one and one cannot be compared: they are the same study"):
        compare(first, first)


def test_a_lost_support_draw_is_named(first: StudyData, tmp_path: Path) -> None:
    second = made(tmp_path, "two")
    (second.draws / "draw-2.json").unlink()
    with pytest.raises(UserError, match=r"draw-2\.json does not hold the support images of K = 1"):
        compare(first, gather(second))
