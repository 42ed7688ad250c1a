"""Confidence intervals of a mean over few support draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Interval = tuple[float, float]
"""Lower and upper end, in the unit of the values."""


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Confidence interval of the mean by Student's t with n - 1 degrees of freedom.

    Exact for normal values at any n; docs/statistics.md has its measured coverage for others.
    The ends are not cut at 0 or 1: scores near a bound can have an end beyond it.

    Args:
        values: n finite scores, one per support draw.
        level: Coverage asked for, in (0, 1).

    Returns:
        Lower and upper end; both are the common value where all values are equal. None for n < 2.

    Raises:
        ValueError: A value is not finite, or ``level`` is outside (0, 1).
    """
    array = _checked(values, level)
    if len(array) < 2:
        return None
    mean = float(array.mean())
    if all_equal(array):
        return mean, mean
    half = t_quantile(len(array) - 1, level) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean - half, mean + half


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Confidence interval of the mean by resampling the draws.

    Bias-corrected and accelerated (BCa; Efron 1987, doi:10.1080/01621459.1987.10478410), which is
    defined for the mean of any values that are not all equal. It follows the skew of the values
    and stays inside their range, but with few draws it is too narrow: at n = 5 a 95 % interval
    covers the true mean of normal scores in some 84 % of studies (docs/statistics.md).
    :func:`t_interval` is the one to decide by.

    Args:
        values: n finite scores, one per support draw.
        level: Coverage asked for, in (0, 1).
        resamples: Number of bootstrap resamples, at least 100.
        seed: Of the resampling; the same values and seed give the same interval.

    Returns:
        Lower and upper end; both are the common value where all values are equal. None for n < 2.

    Raises:
        ValueError: A value is not finite, ``level`` is outside (0, 1), or ``resamples`` is below
            100.
    """
    array = _checked(values, level)
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}: at least 100 are needed for percentiles")
    if len(array) < 2:
        return None
    if all_equal(array):
        return float(array.mean()), float(array.mean())
    found = stats.bootstrap(
        (np.sort(array),),  # the order of the draws means nothing
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def t_quantile(freedom: int, level: float) -> float:
    """Two-sided quantile of Student's t."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def all_equal(array: NDArray[np.float64]) -> bool:
    """Whether values differ by no more than rounding."""
    return bool(np.ptp(array) <= 1e-12 * max(1.0, float(np.abs(array).max())))


def _checked(values: Sequence[float], level: float) -> NDArray[np.float64]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it lies between 0 and 1")
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"values are {values!r}: they must be a flat list of finite numbers")
    return array
