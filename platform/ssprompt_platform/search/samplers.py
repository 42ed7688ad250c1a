"""How settings are proposed, by name: Optuna's samplers, and two that fill the space evenly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats import qmc

from ssprompt_platform.config.schema import Dimension, SearchConfig
from ssprompt_platform.search.checks import grid_points
from ssprompt_platform.search.evolution import Evolution, Parents
from ssprompt_platform.search.space import Space

EVEN = ("grid", "sobol")
"""Samplers whose proposals depend on the number of the trial alone."""


def learning_sampler(
    config: SearchConfig, seed: int, parents: Parents | None = None, first: bool = True
) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers, seeded; for those in :data:`EVEN` one that is never asked.

    Args:
        config: The ``search`` group.
        seed: Of this proposal.
        parents: Of the generations so far, where the sampler has some.
        first: Whether the proposal is the first one of its batch.
    """
    if config.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.startup_trials)
    if config.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)
    if parents is not None:
        return Evolution(parents, config.startup_trials, seed, first)
    return optuna.samplers.RandomSampler(seed=seed)


def grid(space: Space, dimensions: Mapping[str, Dimension], seed: int) -> list[dict[str, Any]]:
    """Every setting of a grid once, in a seeded order, so that a part of it is spread out.

    A range has ``points`` values, evenly spaced, on a logarithmic scale where it is one.
    """
    axes = [
        _axis(distribution, dimensions[name].points if name in dimensions else 0)
        for name, distribution in space.distributions.items()
    ]
    settings: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes):
        setting = _active(space, dict(zip(space.distributions, values, strict=True)))
        settings.setdefault(repr(setting), setting)
    found = list(settings.values())
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def sobol(space: Space, number: int, seed: int) -> dict[str, Any]:
    """The setting of a scrambled Sobol sequence at a place in it."""
    sequence = qmc.Sobol(len(space.distributions), scramble=True, rng=np.random.default_rng(seed))
    unit = sequence.fast_forward(number).random(1)[0] if number else sequence.random(1)[0]
    return _active(
        space,
        {
            name: _at(distribution, float(u))
            for (name, distribution), u in zip(space.distributions.items(), unit, strict=True)
        },
    )


def _active(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    setting: dict[str, Any] = {}
    for name in space.distributions:
        if space.active(name, setting):
            setting[name] = values[name]
    return setting


def _axis(distribution: BaseDistribution, points: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    count = grid_points(distribution, points)
    values = [_at(distribution, i / max(1, count - 1)) for i in range(count)]
    return list(dict.fromkeys(values))


def _at(distribution: BaseDistribution, unit: float) -> Any:
    """The value at a place in [0, 1] of a dimension."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return choices[min(int(unit * len(choices)), len(choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
    else:
        value = low + unit * (high - low)
    # rounding must not leave the range
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else value
