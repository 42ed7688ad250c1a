"""The search space of a method as Optuna distributions, its conditions, and its default inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, MethodSettings
from ssprompt_core.train.settings import FitSettings
from ssprompt_platform.config.schema import Dimension, SpaceConfig, TrainConfig
from ssprompt_platform.search.conditions import check_conditions, in_order

FIT_HYPERPARAMETERS = ("epochs", "ce_weight", "dice_weight", "focal_weight", "class_balance")
"""Settings of a fit that may be searched; without a search they are those of ``train``."""

_LOSS_WEIGHTS = ("ce_weight", "dice_weight", "focal_weight")


@dataclass(frozen=True)
class Space:
    """What is searched for one method.

    Attributes:
        distributions: Optuna distribution of each hyperparameter, in the order in which they must
            be asked for: those with a condition after those that it names.
        conditions: Hyperparameter -> {another one of the space: values}; it is searched only where
            each of the others has one of the values.
        default: The documented defaults of the method, and ``train`` for settings of a fit, moved
            to the nearest point inside; without those whose condition does not hold there.
        elsewhere: Value of each conditional hyperparameter where it is not searched.
    """

    distributions: dict[str, BaseDistribution]
    conditions: dict[str, dict[str, tuple[Any, ...]]]
    default: dict[str, Any]
    elsewhere: dict[str, Any]

    def active(self, name: str, setting: Mapping[str, Any]) -> bool:
        """Whether a hyperparameter is searched where those before it are as in ``setting``."""
        return all(
            (setting[other] if other in setting else self.elsewhere[other]) in values
            for other, values in self.conditions.get(name, {}).items()
        )

    @property
    def has_choice(self) -> bool:
        """Whether there is anything to search: some hyperparameter can vary."""
        return not all(distribution.single() for distribution in self.distributions.values())


def search_space(method: str, space: SpaceConfig, train: TrainConfig) -> Space:
    """What is searched for a method: those hyperparameters of ``search.space`` that it has.

    Settings of a fit belong to methods that are trained by gradient only. A condition on a
    hyperparameter that the method lacks refers to that one's default.

    Args:
        method: A key of :data:`ssprompt_core.methods.METHODS`.
        space: The ``search.space`` group.
        train: The ``train`` group: defaults of the settings of a fit.

    Raises:
        UserError: Choices, bounds or conditions are not what the hyperparameter can take.
    """
    given = _given(space)
    defaults = {field.name: _default(field.name, train) for field in fields(space)}
    order = in_order(given)
    check_conditions(given, defaults)
    _check_loss_weights(given, train)
    own = set(_own(method))
    distributions: dict[str, BaseDistribution] = {}
    conditions: dict[str, dict[str, tuple[Any, ...]]] = {}
    elsewhere: dict[str, Any] = {}
    default: dict[str, Any] = {}
    for name in order:
        if name not in own:
            continue
        wanted = {other: tuple(values) for other, values in (given[name].when or {}).items()}
        lacking = {other: values for other, values in wanted.items() if other not in distributions}
        if any(defaults[other] not in values for other, values in lacking.items()):
            continue
        distributions[name] = _distribution(name, given[name], train)
        if wanted:
            conditions[name] = {o: v for o, v in wanted.items() if o not in lacking}
            elsewhere[name] = defaults[name]
    result = Space(distributions, conditions, default, elsewhere)
    for name, distribution in distributions.items():
        if result.active(name, default):
            default[name] = _inside(distribution, defaults[name])
    return result


def method_settings(setting: Mapping[str, Any]) -> MethodSettings:
    """The method's part of a setting; the hyperparameters that it does not name have defaults."""
    return MethodSettings(**{k: v for k, v in setting.items() if k not in FIT_HYPERPARAMETERS})


def fit_overrides(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a setting that replaces values of ``train``."""
    return {name: value for name, value in setting.items() if name in FIT_HYPERPARAMETERS}


def _own(method: str) -> tuple[str, ...]:
    """Hyperparameters of a method; what is trained by gradient has learning rates."""
    own = METHODS[method].hyperparameters
    return own + (FIT_HYPERPARAMETERS if any(name.startswith("lr_") for name in own) else ())


def _given(space: SpaceConfig) -> dict[str, Dimension]:
    """The dimensions that are searched."""
    every = {field.name: getattr(space, field.name) for field in fields(space)}
    return {name: dimension for name, dimension in every.items() if dimension is not None}


def _check_loss_weights(given: Mapping[str, Dimension], train: TrainConfig) -> None:
    """Refuse a space in which all losses can have weight 0 at once."""
    searched = [name for name in _LOSS_WEIGHTS if name in given]
    least = {name: float(getattr(train, name)) for name in _LOSS_WEIGHTS}
    for name in searched:
        ends = given[name].choices or (given[name].low, given[name].high)
        numbers = [end for end in ends if isinstance(end, int | float)]
        least[name] = min([*numbers, *([least[name]] if given[name].when else [])], default=1.0)
    if searched and not any(least.values()):
        raise UserError(
            f"search.space.{searched[0]} reaches 0 where {', '.join(_LOSS_WEIGHTS)} can all be 0, "
            "but one of them must stay positive"
        )


def _check(key: str, name: str, value: Any) -> None:
    """Refuse a value that the method or the fit would refuse later, in the middle of a search."""
    try:
        if name in FIT_HYPERPARAMETERS:
            # a weight of 0 is no mistake by itself
            others = dict.fromkeys(_LOSS_WEIGHTS, 1.0)
            FitSettings(**{"epochs": 1, "steps_per_epoch": 1, **others, name: value})
        else:
            MethodSettings(**{name: value})
    except (UserError, TypeError) as error:
        raise UserError(f"{key} holds {value!r}: {error}") from error


def _default(name: str, train: TrainConfig) -> Any:
    """Value of a hyperparameter that is not searched."""
    return getattr(train if name in FIT_HYPERPARAMETERS else MethodSettings(), name)


def setting_count(space: Space) -> int | None:
    """Number of settings where all dimensions are finite and none has a condition, or None."""
    if space.conditions:
        return None
    size = 1
    for distribution in space.distributions.values():
        if isinstance(distribution, CategoricalDistribution):
            size *= len(distribution.choices)
        elif isinstance(distribution, IntDistribution):
            size *= distribution.high - distribution.low + 1
        elif not distribution.single():
            return None
    return size


def _inside(distribution: BaseDistribution, value: Any) -> Any:
    """The nearest point of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return _nearest_choice(value, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return min(max(value, distribution.low), distribution.high)


def _nearest_choice(value: Any, choices: Sequence[Any]) -> Any:
    if value in choices or isinstance(value, str):
        return value if value in choices else choices[0]
    return min(choices, key=lambda choice: abs(choice - value))


def _distribution(name: str, dimension: Dimension, train: TrainConfig) -> BaseDistribution:
    key, default = f"search.space.{name}", _default(name, train)
    if dimension.choices is not None:
        kinds: tuple[type, ...] = (str,) if isinstance(default, str) else (int, float)
        kinds = (int,) if isinstance(default, int) else kinds
        for choice in dimension.choices:
            if not isinstance(choice, kinds) or isinstance(choice, bool):
                raise UserError(
                    f"{key}.choices names {choice!r}, but each must be like the default {default!r}"
                )
            _check(key, name, choice)
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if isinstance(default, str):
        raise UserError(f"{key} has low and high, but takes names; give it choices")
    for value in (dimension.low, dimension.high):
        _check(key, name, value)
    if isinstance(default, int):
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
