"""The power law's least squares against a general optimiser, and the resampling of draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from ssprompt_platform.stats.intervals import t_interval
from ssprompt_platform.stats.powerlaw import (
    RATES,
    fit_power_law,
    resampled_means,
    spread_weights,
)

SHOTS = np.array([1.0, 2, 4, 8, 16])


def cost(parameters, means, weights, shots=SHOTS):
    a, b, c = parameters
    return float((weights * (means - a + b * shots**-c) ** 2).sum())


def searched(means, weights):
    """Best of several starts of SciPy's bounded least squares."""

    def residuals(p):
        return np.sqrt(weights) * (means - p[0] + p[1] * SHOTS ** -p[2])

    starts = [(a, b, c) for a in (0.2, 0.9) for b in (0.1, 0.6) for c in (0.1, 0.6, 2.0)]
    bounds = ([0, 0, RATES[0]], [1, np.inf, RATES[1]])
    return min((least_squares(residuals, s, bounds=bounds, xtol=1e-12) for s in starts),
               key=lambda found: found.cost)  # fmt: skip


@pytest.mark.parametrize("truth", [(0.75, 0.35, 0.6), (0.9, 0.6, 0.25), (0.6, 0.2, 1.5)])
def test_curves_without_noise_are_recovered(truth):
    a, b, c = truth
    for shots in (SHOTS, SHOTS[:3], np.array([5.0, 20, 80, 200])):
        found = fit_power_law(shots, (a - b * shots**-c)[None], np.ones(len(shots)))[0]
        assert found == pytest.approx(truth, rel=1e-3)


def test_no_general_optimiser_finds_a_better_fit():
    rng = np.random.default_rng(1)
    means = np.vstack(
        [
            0.75 - 0.35 * SHOTS**-0.6 + rng.normal(0, 0.03, (12, 5)),
            0.3 + 0.15 * np.log(SHOTS) + rng.normal(0, 0.02, (6, 5)),  # grows beyond 1
            0.6 - 0.02 * np.log(SHOTS) + rng.normal(0, 0.01, (6, 5)),  # falls
            rng.uniform(0, 1, (12, 5)),
        ]
    )
    weights = rng.uniform(0.5, 4, 5)
    found = fit_power_law(SHOTS, means, weights)
    assert ((found[:, 0] >= 0) & (found[:, 0] <= 1)).all()
    assert (found[:, 1] >= 0).all()
    assert ((found[:, 2] >= RATES[0] - 1e-12) & (found[:, 2] <= RATES[1] + 1e-12)).all()
    for parameters, mean in zip(found, means, strict=True):
        assert cost(parameters, mean, weights) <= 2 * searched(mean, weights).cost * 1.001 + 1e-8


def test_falling_scores_give_a_level_line():
    means = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    weights = np.array([1.0, 1, 1, 1, 4])
    a, b, c = fit_power_law(SHOTS, means[None], weights)[0]
    assert (b, c) == (0, RATES[0])
    assert a == pytest.approx(np.average(means, weights=weights))


def test_scores_that_grow_without_end_level_off_at_1_at_most():
    a, _, c = fit_power_law(SHOTS, (0.2 + 0.25 * np.log(SHOTS))[None], np.ones(5))[0]
    assert a == 1
    assert c >= RATES[0]


def test_a_heavier_k_is_fitted_closer():
    means = np.array([0.3, 0.5, 0.45, 0.65, 0.6])
    misfits = []
    for weight in (1, 100):
        weights = np.array([1.0, weight, 1, 1, 1])
        a, b, c = fit_power_law(SHOTS, means[None], weights)[0]
        misfits.append(abs(a - b * 2**-c - 0.5))
    assert misfits[1] < misfits[0] / 5


def test_weights_are_guarded_against_spreads_of_zero():
    assert spread_weights(np.full((5, 3), 0.4)) == pytest.approx([1, 1, 1])
    steady = np.array([[0.4, 0.5, 0.60], [0.4, 0.6, 0.70], [0.4, 0.7, 0.65]])
    weights = spread_weights(steady)
    assert np.isfinite(weights).all()
    assert weights.argmax() == 0
    assert weights[0] < 10 * weights[1]


def test_resampled_means_of_each_k_have_its_t_interval_as_percentiles():
    draws = np.random.default_rng(0).normal([0.5, 0.6, 0.7], [0.02, 0.03, 0.01], (5, 3))
    means = resampled_means(draws, 100_000, seed=0)
    for column, values in zip(means.T, draws.T, strict=True):
        low, high = t_interval(values.tolist())
        assert np.quantile(column, [0.025, 0.975]) == pytest.approx(
            [low, high], abs=0.02 * (high - low)
        )


def test_draws_are_resampled_jointly_across_k():
    shared = np.random.default_rng(0).normal(0, 0.03, (5, 1))
    means = resampled_means(np.array([[0.5, 0.6, 0.7]]) + shared, 500, seed=0)
    assert np.diff(means, axis=1) == pytest.approx(np.full((500, 2), 0.1))
