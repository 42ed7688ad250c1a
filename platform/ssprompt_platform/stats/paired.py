"""One paired comparison on common draws, and Holm's correction over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ssprompt_platform.stats.intervals import Interval, all_equal, t_interval
from ssprompt_platform.stats.words import count

ALPHA = 0.05
"""A difference is told from none where its p after Holm is below this."""


@dataclass(frozen=True)
class Paired:
    """Differences first - second on the draws that both sides have.

    Attributes:
        n: Number of pairs.
        mean: Mean difference, or None where there is no pair.
        interval: 95 % t-interval of the mean, or None for n < 2.
        p: Of the two-sided paired t-test, or None where there is nothing to test.
        why: Why there is no test; empty where there is one.
    """

    n: int
    mean: float | None
    interval: Interval | None
    p: float | None
    why: str

    def to_dict(self, p_holm: float | None, family_size: int) -> dict[str, Any]:
        """The comparison as JSON.

        Args:
            p_holm: ``p`` corrected by :func:`holm`.
            family_size: Number of tests that it was corrected for.
        """
        return {
            "difference": self.mean,
            "ci95": list(self.interval) if self.interval else None,
            "p": self.p,
            "p_holm": p_holm,
            "n": self.n,
            "significant": p_holm is not None and p_holm < ALPHA,
            "family_size": family_size,
        }


def pair(first: NDArray[np.float64], second: NDArray[np.float64]) -> Paired:
    """Compare two sides draw by draw.

    There is no test below two pairs, nor where the difference is the same in every draw: the
    t-test divides by the spread of the differences, and without one it knows neither p = 0 nor
    p = 1.

    Args:
        first: Scores ``[R]`` in the order of draws, NaN where a draw is missing.
        second: The same of the other side.
    """
    difference = first - second
    difference = difference[~np.isnan(difference)]
    n = len(difference)
    mean = float(difference.mean()) if n else None
    p, why = None, ""
    if n < 2:
        why = f"{count(n, 'draw')} in common, and a test needs 2"
    elif all_equal(difference):
        why = f"the difference is the same in all {n} draws, so it has no spread to test against"
    else:
        p = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return Paired(n, mean, t_interval(difference.tolist()), p, why)


def holm(values: Sequence[float | None]) -> tuple[int, list[float | None]]:
    """Correct p values for being read together (Holm 1979, https://www.jstor.org/stable/4615733).

    The chance that any true null hypothesis of the family is rejected stays below the level that
    the corrected values are held against, however the tests depend on each other.

    Args:
        values: p in [0, 1]; None where no test was made, which is not counted.

    Returns:
        Number of tests, and the corrected values in the same places.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return len(order), corrected
