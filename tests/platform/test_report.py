from __future__ import annotations

import math

import pytest
from scipy import stats

from ssprompt_platform.report import mean_ci95, versions


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
