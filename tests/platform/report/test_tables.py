"""Statistics over draws, and the rows of ``results.json``."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from ssprompt_platform.plan import FitKey, Group
from ssprompt_platform.report.tables import (
    make_per_class,
    make_rows,
    mean_ci95,
    versions,
)

THINGS = (1, 2)
CLASSES = ("a", "b", "c", "d")
LABELLED = {"1": 6.0, "4": 24.0}
GROUPS = tuple(Group(method, k) for method in ("zero_shot", "spa") for k in (1, 4))


def record(draw: int, miou: float, iou: list[float | None]) -> dict[str, Any]:
    return {
        "draw": draw,
        "miou": miou,
        "iou": iou,
        "hyperparameters": {},
        "trainable_parameters": 7,
        "support_images": 2,
    }


@pytest.fixture
def fits() -> dict[FitKey, dict[str, Any]]:
    """Two draws of spa, one score of zero_shot, four classes of which two are things."""
    return {
        FitKey("zero_shot", 1, 0): record(0, 0.2, [0.1, 0.2, 0.3, 0.2]),
        FitKey("spa", 1, 0): record(0, 0.3, [0.1, 0.2, 0.4, None]),
        FitKey("spa", 1, 1): record(1, 0.5, [0.3, None, 0.6, None]),
        FitKey("spa", 4, 0): record(0, 0.6, [0.5, None, None, 0.7]),
        FitKey("spa", 4, 1): record(1, 0.6, [0.5, 0.8, 0.4, 0.7]),
    }


def test_rows_have_means_of_things_and_stuff_in_each_draw(fits) -> None:
    rows = make_rows(GROUPS, fits, THINGS, LABELLED)
    spa1, spa4 = rows[2:]
    assert (spa1["draws"], spa1["draw_numbers"]) == ([0.3, 0.5], [0, 1])
    assert spa1["things"]["draws"] == pytest.approx([0.3, 0.6])
    assert spa1["things"]["mean"] == pytest.approx(0.45)
    low, high = spa1["things"]["ci95"]
    # 12.706 is the textbook quantile for one degree of freedom
    assert high - low == pytest.approx(2 * 12.706 * 0.15, rel=1e-3)
    assert spa1["stuff"]["draws"] == pytest.approx([0.1, 0.3])
    # a draw in which no thing can be scored does not count
    assert spa4["things"]["draws"] == pytest.approx([0.6])
    assert spa4["things"]["ci95"] is None
    assert spa4["stuff"]["mean"] == pytest.approx(0.6)


def test_rows_have_both_intervals_and_the_price_of_their_k(fits) -> None:
    zero_shot, _, spa1, spa4 = make_rows(GROUPS, fits, THINGS, LABELLED)
    low, high = spa1["bootstrap95"]
    # a resampled mean lies among the values
    assert 0.3 <= low < spa1["mean"] < high <= 0.5
    assert spa4["bootstrap95"] == [0.6, 0.6]
    assert (spa1["labelled"], spa4["labelled"]) == (6.0, 24.0)
    assert (zero_shot["bootstrap95"], zero_shot["labelled"]) == (None, 0.0)


def test_a_missing_draw_leaves_its_number_out_and_a_missing_group_its_row(fits) -> None:
    del fits[FitKey("spa", 1, 0)], fits[FitKey("spa", 4, 0)], fits[FitKey("spa", 4, 1)]
    rows = make_rows(GROUPS, fits, THINGS, LABELLED)
    assert [(row["method"], row["shots"]) for row in rows] == [
        ("zero_shot", 1),
        ("zero_shot", 4),
        ("spa", 1),
    ]
    assert (rows[2]["draws"], rows[2]["draw_numbers"], rows[2]["ci95"]) == ([0.5], [1], None)
    per_class = make_per_class(GROUPS, fits, CLASSES, THINGS)
    assert {(row["method"], row["shots"]) for row in per_class} == {
        (row["method"], row["shots"]) for row in rows
    }


def test_data_that_does_not_tell_things_from_stuff_has_no_such_means(fits) -> None:
    assert {row["things"] for row in make_rows(GROUPS, fits, (), LABELLED)} == {None}
    per_class = make_per_class(GROUPS, fits, CLASSES, ())
    assert {row["thing"] for row in per_class} == {None}


def test_a_method_without_learning_is_one_number_without_interval(fits) -> None:
    rows = make_rows(GROUPS, fits, THINGS, LABELLED)
    for row in rows[:2]:
        assert row["deterministic"]
        assert (row["mean"], row["ci95"], row["draws"]) == (0.2, None, [0.2])
        assert row["things"]["mean"] == pytest.approx(0.25)
        assert row["things"]["ci95"] is None
    assert not any(row["deterministic"] for row in rows[2:])


def test_classes_count_the_draws_in_which_they_occur(fits) -> None:
    rows = make_per_class(GROUPS, fits, CLASSES, THINGS)
    found = {(r["method"], r["shots"], r["class"]): r for r in rows}
    assert len(found) == 16
    assert found["spa", 1, "c"]["mean"] == pytest.approx(0.5)
    assert found["spa", 1, "c"]["thing"]
    assert not found["spa", 1, "d"]["thing"]
    assert (found["spa", 1, "b"]["draws"], found["spa", 1, "b"]["ci95"]) == ([0.2], None)
    nothing = found["spa", 1, "d"]
    assert (nothing["mean"], nothing["ci95"], nothing["draws"]) == (None, None, [])


def test_interval_is_students_t() -> None:
    values = [0.50, 0.55, 0.47, 0.61, 0.52]
    mean, interval = mean_ci95(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean == pytest.approx(sum(values) / 5)
    assert interval == pytest.approx((expected.low, expected.high))
    # 2.776 is the textbook quantile for four degrees of freedom
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
    assert interval is not None
    assert interval[1] - mean == pytest.approx(2.776 * deviation / math.sqrt(5), rel=1e-3)


def test_one_draw_has_no_interval_and_equal_draws_a_point() -> None:
    assert mean_ci95([0.4]) == (0.4, None)
    assert mean_ci95([0.4, 0.4]) == (0.4, (0.4, 0.4))


def test_versions_name_what_the_numbers_depend_on() -> None:
    assert {"python", "torch", "ray", "optuna", "mlflow"} <= set(versions())
