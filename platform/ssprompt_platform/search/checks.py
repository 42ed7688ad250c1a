"""Checks the ``search`` group against the methods' spaces: known settings, size of a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config, SpaceConfig
from ssprompt_platform.search.space import Space, search_space

MAX_GRID = 100_000
"""Points of a grid over which a search refuses to begin."""

_ADDRESS = ("method", "shots")


def check_search(config: Config) -> None:
    """Check the search space of every method of the study, and what is to be tried in it.

    Raises:
        UserError: A dimension, a setting of ``search.enqueue`` or the size of a grid is wrong.
    """
    search = config.search
    spaces = {m: search_space(m, search.space, config.train) for m in config.study.methods}
    searched = {
        method: space
        for method, space in spaces.items()
        if METHODS[method].uses_support and space.has_choice
    }
    if search.sampler == "grid" and search.trials:
        for method, space in searched.items():
            _check_grid(method, space, config)
    if search.enqueue and not search.trials:
        raise UserError(
            f"search.enqueue lists {len(search.enqueue)} settings to try, but search.trials is 0"
        )
    for number, entry in enumerate(search.enqueue, 1):
        _check_entry(f"entry {number} of search.enqueue", entry, searched, config)
    _check_count(searched, config)


def grid_points(distribution: BaseDistribution, points: int) -> int:
    """How many values of a hyperparameter a grid takes."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.single():
        return 1
    if isinstance(distribution, IntDistribution):
        return min(points, distribution.high - distribution.low + 1)
    return points


def _check_grid(method: str, space: Space, config: Config) -> None:
    count = math.prod(
        grid_points(distribution, getattr(config.search.space, name).points)
        for name, distribution in space.distributions.items()
    )
    count *= len(config.study.shots) if config.study.mode == "pareto" else 1
    if count > MAX_GRID:
        raise UserError(
            f"search.sampler is grid, but the grid of {method} has {count:,} points over "
            f"{', '.join(space.distributions)}, and at most {MAX_GRID:,} are allowed; give fewer "
            "choices or points in search.space"
        )


def _check_entry(
    where: str, entry: Mapping[str, Any], searched: Mapping[str, Space], config: Config
) -> None:
    names = [field.name for field in fields(SpaceConfig)]
    for key in entry:
        if key not in names and key not in _ADDRESS:
            raise UserError(
                f"{where} has the unknown key '{key}'{nearest(str(key), [*names, *_ADDRESS])}; it "
                "may hold method, shots and hyperparameters of search.space"
            )
    _check_address(where, entry, searched, config)
    setting = {key: value for key, value in entry.items() if key not in _ADDRESS}
    if not setting:
        raise UserError(f"{where} is {dict(entry)}, but must give at least one hyperparameter")
    concerned = {m: s for m, s in searched.items() if entry.get("method", m) == m}
    for key, value in setting.items():
        have = {m: s for m, s in concerned.items() if key in s.distributions}
        if not have:
            reason = (
                "which is not searched"
                if getattr(config.search.space, key) is None
                else (
                    f"which {entry['method']} does not have"
                    if "method" in entry
                    else "which no searched method has"
                )
            )
            raise UserError(f"{where} gives {key}={value}, {reason}; leave it out")
        for method, space in have.items():
            _check_value(where, key, value, method, space)
            _check_active(where, key, setting, method, space)


def _check_address(
    where: str, entry: Mapping[str, Any], searched: Mapping[str, Space], config: Config
) -> None:
    method, shots = entry.get("method"), entry.get("shots")
    if "method" in entry and method not in config.study.methods:
        raise UserError(
            f"{where} gives method={method}{nearest(str(method), config.study.methods)}, but "
            f"study.methods are {', '.join(config.study.methods)}"
        )
    if "method" in entry and method not in searched:
        raise UserError(f"{where} gives method={method}, which has nothing to search")
    if "shots" in entry and (isinstance(shots, bool) or shots not in config.study.shots):
        raise UserError(
            f"{where} gives shots={shots}, but study.shots are "
            f"{', '.join(str(k) for k in config.study.shots)}"
        )


def _check_value(where: str, key: str, value: Any, method: str, space: Space) -> None:
    distribution = space.distributions[key]
    if isinstance(distribution, CategoricalDistribution):
        inside = value in distribution.choices and not isinstance(value, bool)
        told = f"one of {', '.join(str(choice) for choice in distribution.choices)}"
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        whole = isinstance(distribution, IntDistribution)
        inside = (
            isinstance(value, int if whole else int | float)
            and not isinstance(value, bool)
            and distribution.low <= value <= distribution.high
        )
        kind = "a whole number" if whole else "a number"
        told = f"{kind} from {distribution.low:g} to {distribution.high:g}"
    if not inside:
        raise UserError(
            f"{where} gives {key}={value}, but search.space.{key} of {method} is {told}"
        )


def _check_active(
    where: str, key: str, setting: Mapping[str, Any], method: str, space: Space
) -> None:
    """A value that the search would ignore is a mistake."""
    whole = {**space.default, **setting}
    if not space.active(key, whole):
        told = " and ".join(
            f"{other} is {' or '.join(str(value) for value in values)}"
            for other, values in space.conditions[key].items()
        )
        raise UserError(
            f"{where} gives {key}={setting[key]}, but {method} searches it only where {told}"
        )


def _check_count(searched: Mapping[str, Space], config: Config) -> None:
    """Refuse more known settings than trials: those at the end would never be tried."""
    per_shot = config.study.mode == "per_shot"
    for method in searched:
        for k in config.study.shots if per_shot else [None]:
            count = sum(
                entry.get("method", method) == method and (k is None or entry.get("shots", k) == k)
                for entry in config.search.enqueue
            )
            if count > config.search.trials:
                raise UserError(
                    f"search.enqueue lists {count} settings for {method}"
                    f"{f' at K = {k}' if per_shot else ''}, but search.trials is only "
                    f"{config.search.trials}"
                )
