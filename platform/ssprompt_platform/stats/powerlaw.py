"""Least squares of the learning curve's power law, many curves at once, and its resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATES = (0.05, 3.0)
"""Bounds of c: below, the curve is all but a straight line in log K and its asymptote is at 1;
above, all but a step after the smallest K."""
_GRID, _FINER, _ROUNDS = 80, 21, 4


def fit_power_law(shots: Floats, means: Floats, weights: Floats) -> Floats:
    """Fit ``a - b * K**-c`` with 0 <= a <= 1, b >= 0 and c in ``RATES`` to each row of means.

    For a given c the best a and b have a closed form, so what is left is a search in c alone: a
    grid over its whole range, then finer ones around the best. There are no starting points to
    choose and no local minima to fall into.

    Args:
        shots: K ``[S]``, increasing, at least 3.
        means: Scores ``[B, S]``; B curves are fitted.
        weights: Weight ``[S]`` of each squared residual, above 0.

    Returns:
        a, b and c ``[B, 3]``. Where b is 0, c means nothing and is the lower bound.
    """
    steps = shots / shots[0]  # keeps the powers near 1 at any K
    rows = np.arange(len(means))
    rates = np.broadcast_to(np.geomspace(*RATES, _GRID), (len(means), _GRID))
    for _ in range(_ROUNDS):
        a, depth, cost = _best_at(rates, steps, means, weights)
        best = cost.argmin(1)
        found = np.stack([a[rows, best], depth[rows, best], rates[rows, best]], 1)
        low = rates[rows, np.maximum(best - 1, 0)]
        high = rates[rows, np.minimum(best + 1, rates.shape[1] - 1)]
        rates = np.geomspace(low, high, _FINER, axis=1)
    found[:, 1] *= shots[0] ** found[:, 2]
    found[found[:, 1] == 0, 2] = RATES[0]
    return found


def _best_at(
    rates: Floats, steps: Floats, means: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Best a and b ``[B, G]`` at given rates ``[B, G]``, and the weighted sum of squares."""
    x_BGS = steps ** -rates[..., None]
    y_BGS = means[:, None, :]
    x_mean, y_mean = (np.average(v, axis=-1, weights=weights) for v in (x_BGS, y_BGS))
    x_off, y_off = x_BGS - x_mean[..., None], y_BGS - y_mean[..., None]
    b = -(weights * x_off * y_off).sum(-1) / (weights * x_off**2).sum(-1)
    b = np.maximum(b, 0.0)
    a = y_mean + b * x_mean
    # a bound that is passed is the place of the constrained optimum: b is fitted again for it
    bound = np.clip(a, 0.0, 1.0)
    again = (weights * x_BGS * (bound[..., None] - y_BGS)).sum(-1) / (weights * x_BGS**2).sum(-1)
    b = np.where(a == bound, b, np.maximum(again, 0.0))
    residual = y_BGS - bound[..., None] + b[..., None] * x_BGS
    return bound, b, (weights * residual**2).sum(-1)


def spread_weights(draws: Floats) -> Floats:
    """One over the variance of each K's mean ``[S]``, from draws ``[R, S]``.

    The variance of so few draws is a rough guess (and can be 0 by chance), so each K's is
    averaged with that of all K. Without any spread all K weigh the same.
    """
    variance = draws.var(axis=0, ddof=1)
    if not variance.any():
        return np.ones(draws.shape[1])
    weights: Floats = len(draws) / ((variance + variance.mean()) / 2)
    return weights


def resampled_means(draws: Floats, resamples: int, seed: int) -> Floats:
    """Means ``[B, S]`` as other support draws might have given them, from draws ``[R, S]``.

    A bootstrap with continuous weights over draw numbers: a resample weighs each draw anew, with
    the same weight at every K, because a draw's supports are nested. Picking draws with
    replacement is too narrow when they are few (measured in docs/statistics.md), so the weights
    are scaled such that the percentiles of one K's means are the ends of its t-interval.
    """
    rng = np.random.default_rng(seed)
    n = len(draws)
    ordered = draws[np.lexsort(draws.T)]  # whatever order the draws come in
    centre = ordered.mean(axis=0)
    weights = rng.standard_normal((resamples, n))
    weights /= np.sqrt(rng.chisquare(n - 1, (resamples, 1)) / (n - 1))
    means: Floats = centre + weights @ (ordered - centre) / np.sqrt(n * (n - 1))
    return means
