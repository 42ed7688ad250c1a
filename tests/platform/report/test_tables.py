"""Statistics over draws, the rows of ``results.json`` and the printed table."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from ssprompt_platform.plan import FitKey, Group, StudyPlan
from ssprompt_platform.report.tables import (
    make_per_class,
    make_rows,
    mean_ci95,
    score_table,
    versions,
)

THINGS = frozenset({1, 2})


def record(miou: float, iou: list[float | None]) -> dict[str, Any]:
    return {
        "miou": miou,
        "iou": iou,
        "hyperparameters": {},
        "trainable_parameters": 7,
        "support_images": 2,
    }


@pytest.fixture
def study() -> tuple[StudyPlan, dict[FitKey, dict[str, Any]]]:
    """Two draws of spa, one score of zero_shot, four classes of which two are things."""
    groups = tuple(Group(method, k) for method in ("zero_shot", "spa") for k in (1, 4))
    fits = {
        FitKey("zero_shot", 1, 0): record(0.2, [0.1, 0.2, 0.3, 0.2]),
        FitKey("spa", 1, 0): record(0.3, [0.1, 0.2, 0.4, None]),
        FitKey("spa", 1, 1): record(0.5, [0.3, None, 0.6, None]),
        FitKey("spa", 4, 0): record(0.6, [0.5, None, None, 0.7]),
        FitKey("spa", 4, 1): record(0.6, [0.5, 0.8, 0.4, 0.7]),
    }
    return StudyPlan((), groups, (), tuple(fits), {}, ()), fits


def test_rows_have_means_of_things_and_stuff_in_each_draw(study) -> None:
    rows = make_rows(*study, THINGS)
    spa1, spa4 = rows[2:]
    assert spa1["draws"] == [0.3, 0.5]
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


def test_data_that_does_not_tell_things_from_stuff_has_no_such_means(study) -> None:
    assert {row["things"] for row in make_rows(*study, frozenset())} == {None}
    per_class = make_per_class(*study, ("a", "b", "c", "d"), frozenset())
    assert {row["thing"] for row in per_class} == {None}


def test_a_method_without_learning_is_one_number_without_interval(study) -> None:
    rows = make_rows(*study, THINGS)
    for row in rows[:2]:
        assert row["deterministic"]
        assert (row["mean"], row["ci95"], row["draws"]) == (0.2, None, [0.2])
        assert row["things"]["mean"] == pytest.approx(0.25)
        assert row["things"]["ci95"] is None
    assert not any(row["deterministic"] for row in rows[2:])


def test_classes_count_the_draws_in_which_they_occur(study) -> None:
    rows = make_per_class(*study, ("a", "b", "c", "d"), THINGS)
    found = {(r["method"], r["shots"], r["class"]): r for r in rows}
    assert len(found) == 16
    assert found["spa", 1, "c"]["mean"] == pytest.approx(0.5)
    assert found["spa", 1, "c"]["thing"]
    assert not found["spa", 1, "d"]["thing"]
    assert (found["spa", 1, "b"]["draws"], found["spa", 1, "b"]["ci95"]) == ([0.2], None)
    nothing = found["spa", 1, "d"]
    assert (nothing["mean"], nothing["ci95"], nothing["draws"]) == (None, None, [])


def printed(rows: list[dict[str, Any]]) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(score_table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_things_and_stuff_at_the_largest_k(study) -> None:
    text = printed(make_rows(*study, THINGS))
    header, zero_shot, spa = (
        next(line for line in text.splitlines() if word in line)
        for word in ("method", "zero_shot", "spa")
    )
    assert "things, K = 4" in header
    assert "stuff, K = 4" in header
    assert "things, K = 1" not in header
    assert zero_shot.count("0.200 fixed") == 2
    assert "n=" not in zero_shot
    assert spa.count("n=2") == 2
    assert spa.split()[-4:-1] == ["0.600", "│", "0.600"]
    assert "things" not in printed(make_rows(*study, frozenset()))


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
