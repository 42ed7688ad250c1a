"""The search space of a method as Optuna distributions, and its documented default inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, MethodSettings
from ssprompt_platform.config.schema import Dimension, SpaceConfig


def search_space(method: str, space: SpaceConfig) -> dict[str, BaseDistribution]:
    """Optuna distributions of the hyperparameters that a method has.

    Raises:
        UserError: ``choices`` are of the wrong type.
    """
    distributions: dict[str, BaseDistribution] = {}
    for name in METHODS[method].hyperparameters:
        dimension: Dimension | None = getattr(space, name, None)
        if dimension is not None:
            distributions[name] = _distribution(f"search.space.{name}", name, dimension)
            for value in dimension.choices or (dimension.low, dimension.high):
                _check(f"search.space.{name}", name, value)
    return distributions


def has_choice(method: str, space: SpaceConfig) -> bool:
    """Whether there is anything to search: some hyperparameter of the method can vary."""
    return not all(d.single() for d in search_space(method, space).values())


def default_setting(method: str, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The documented defaults of a method, moved to the nearest point inside the space."""
    defaults = MethodSettings()
    setting: dict[str, Any] = {}
    for name, distribution in space.items():
        value = getattr(defaults, name)
        if isinstance(distribution, CategoricalDistribution):
            setting[name] = _nearest_choice(value, distribution.choices)
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            setting[name] = min(max(value, distribution.low), distribution.high)
    return setting


def _check(key: str, name: str, value: Any) -> None:
    """Refuse a value that the method would refuse later, in the middle of a search."""
    try:
        MethodSettings(**{name: value})
    except (UserError, TypeError) as error:
        raise UserError(f"{key} holds {value!r}: {error}") from error


def _nearest_choice(value: Any, choices: Sequence[Any]) -> Any:
    if value in choices or isinstance(value, str):
        return value if value in choices else choices[0]
    return min(choices, key=lambda choice: abs(choice - value))


def _distribution(key: str, name: str, dimension: Dimension) -> BaseDistribution:
    default = getattr(MethodSettings(), name)
    if dimension.choices is not None:
        kinds: tuple[type, ...] = (str,) if isinstance(default, str) else (int, float)
        kinds = (int,) if isinstance(default, int) else kinds
        for choice in dimension.choices:
            if not isinstance(choice, kinds) or isinstance(choice, bool):
                raise UserError(
                    f"{key}.choices names {choice!r}, but each must be like the default {default!r}"
                )
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if isinstance(default, str):
        raise UserError(f"{key} has low and high, but takes names; give it choices")
    if isinstance(default, int):
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
