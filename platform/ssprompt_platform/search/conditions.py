"""Conditions of a search space: in which order hyperparameters are asked for, and what is wrong."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.config.schema import Dimension, SpaceConfig


def in_order(searched: Mapping[str, Dimension]) -> list[str]:
    """Names of the dimensions, each after those that its condition names.

    Raises:
        UserError: A condition names no hyperparameter, or conditions go in a circle.
    """
    names = [field.name for field in fields(SpaceConfig)]
    for name, dimension in searched.items():
        for other in dimension.when or {}:
            if other not in names:
                raise UserError(
                    f"search.space.{name}.when names '{other}'{nearest(str(other), names)}, but "
                    f"must name another hyperparameter of search.space: {', '.join(names)}"
                )
    sorter = graphlib.TopologicalSorter({n: list(searched[n].when or {}) for n in searched})
    try:
        sorted_names = list(sorter.static_order())
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        raise UserError(
            f"search.space.{circle[0]}.when goes in a circle ({' -> '.join(circle)}), but a "
            "condition may only name hyperparameters that do not depend on its own"
        ) from error
    free = [name for name in searched if not searched[name].when]
    return free + [name for name in sorted_names if name in searched and name not in free]


def check_conditions(searched: Mapping[str, Dimension], defaults: Mapping[str, Any]) -> None:
    """Refuse conditions that can never hold.

    Args:
        searched: The dimensions by name.
        defaults: Value of every hyperparameter where it is not searched.

    Raises:
        UserError: A condition is no list of values, or asks for one that cannot be.
    """
    for name, dimension in searched.items():
        key = f"search.space.{name}.when"
        for other, values in (dimension.when or {}).items():
            asked, default = searched.get(other), defaults[other]
            if not isinstance(values, list) or not values:
                example = asked.choices[0] if asked and asked.choices else default
                raise UserError(
                    f"{key} gives {other} the values {values!r}, but needs a list, as in "
                    f"{{{other}: [{example}]}}"
                )
            for value in values:
                if not _can_be(asked, value, default):
                    raise UserError(
                        f"{key} asks for {other}={value}, which is never so: "
                        f"{_told(other, asked, default)}"
                    )


def _can_be(dimension: Dimension | None, value: Any, default: Any) -> bool:
    if dimension is None or (dimension.when and value == default):
        return bool(value == default)
    if dimension.choices is not None:
        return value in dimension.choices
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    assert dimension.low is not None
    assert dimension.high is not None
    # a search meets a given number of a continuous range with probability zero
    countable = isinstance(default, int) and value == round(value)
    return dimension.low <= value <= dimension.high and (
        countable or dimension.low == dimension.high
    )


def _told(name: str, dimension: Dimension | None, default: Any) -> str:
    if dimension is None:
        return f"search.space.{name} is not searched, and train.{name} is {default}"
    if dimension.choices is not None:
        return f"search.space.{name}.choices are {dimension.choices}"
    if isinstance(default, int):
        return (
            f"search.space.{name} takes whole numbers from {dimension.low:g} to {dimension.high:g}"
        )
    return f"search.space.{name} is a continuous range; give it choices"
