"""Fit the learning curve of a method: how good it gets with K labelled images of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssprompt_platform.stats.curve_model import LEAST_SHOTS, Answer, Curve
from ssprompt_platform.stats.intervals import t_interval
from ssprompt_platform.stats.powerlaw import (
    Floats,
    fit_power_law,
    resampled_means,
    spread_weights,
)

__all__ = ["Answer", "Curve", "NoCurve", "fit_curve"]


@dataclass(frozen=True)
class NoCurve:
    """Why no curve was fitted, in one sentence."""

    refused: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"refused": self.refused}


def fit_curve(
    draws: Mapping[int, Sequence[float | None]],
    *,
    labelled: Mapping[int, float] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> Curve | NoCurve:
    """Fit the learning curve of one method to its scores.

    Weighted least squares of the mean of each K (weights: :func:`spread_weights`); intervals are
    percentiles over resampled draws (:func:`resampled_means`). K with fewer than two scores are
    left out, and of the draws those that have a score at every K left are used.

    Args:
        draws: K -> scores in [0, 1] in the same order of draws; None or NaN: the draw is missing.
        labelled: Distinct labelled images that each K costs, where that is known.
        seed: Of the resampling. The order of the draws does not matter.
        resamples: How many, at least 100.

    Returns:
        The curve, or why there is none: fewer than 3 values of K, or fewer than 2 draws.

    Raises:
        ValueError: A score is infinite or outside [0, 1], a K is below 1, or ``resamples`` is
            below 100.
    """
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}: at least 100 are needed for percentiles")
    columns = {k: _column(k, draws[k]) for k in sorted(draws)}
    columns = {k: v for k, v in columns.items() if np.isfinite(v).sum() >= 2}
    if len(columns) < LEAST_SHOTS:
        found = f"K = {', '.join(map(str, columns))}" if columns else "none"
        return NoCurve(f"a curve needs {LEAST_SHOTS} values of K with 2 draws each, not {found}")
    length = max(map(len, columns.values()))
    table = np.full((length, len(columns)), np.nan)
    for place, values in enumerate(columns.values()):
        table[: len(values), place] = values
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < 2:
        return NoCurve(f"a curve needs 2 draws that have a score at every K, not {len(table)}")
    shots, weights = np.array(list(columns), np.float64), spread_weights(table)
    means = table.mean(axis=0)
    a, b, c = fit_power_law(shots, means[None], weights)[0].tolist()
    fitted = a - b * shots**-c
    intervals = [t_interval(values) or (-np.inf, np.inf) for values in table.T.tolist()]
    return Curve(
        a=a,
        b=b,
        c=c,
        shots=tuple(columns),
        means=tuple(means.tolist()),
        draws=len(table),
        labelled=dict(labelled or {}),
        misses=tuple(
            k
            for k, value, (low, high) in zip(columns, fitted, intervals, strict=True)
            if low < high and not low <= value <= high
        ),
        resampled=fit_power_law(shots, resampled_means(table, resamples, seed), weights),
    )


def _column(k: int, values: Sequence[float | None]) -> Floats:
    column = np.asarray([np.nan if v is None else v for v in values], np.float64)
    known = column[~np.isnan(column)]
    if k < 1 or ((known < 0) | (known > 1)).any():
        raise ValueError(f"scores at K = {k} are {values!r}: K is at least 1, scores in [0, 1]")
    return column
