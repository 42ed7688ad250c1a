"""What a configuration may hold, option by option and across groups; mistakes name their key."""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from urllib.parse import urlsplit

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config, Dimension

_TAKEN = ("data", "embeddings", "latest", "mlflow-artifacts", "texts")
"""Folders of the storage root that are no study."""

_LARGEST_P = 0.5


def check_values(group: Any, prefix: str = "") -> None:
    """Check each option by itself: choices, bounds, search ranges.

    Raises:
        UserError: One is out of range; the message names its key.
    """
    for field in dataclasses.fields(group):
        value, full = getattr(group, field.name), f"{prefix}{field.name}"
        if isinstance(value, Dimension):
            _check_dimension(full, value)
        elif dataclasses.is_dataclass(value):
            check_values(value, f"{full}.")
        choices, low = field.metadata.get("choices"), field.metadata.get("low")
        if choices and value not in choices:
            raise UserError(
                f"{full} is '{value}', but must be one of {', '.join(choices)}"
                f"{nearest(str(value), choices) or _renamed(full, value)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{full} is {value}, but must be a finite number")
        if low is not None and value is not None and not value >= low:
            raise UserError(f"{full} is {value}, but must be at least {low:g}")


def check_study(config: Config) -> None:
    """Check what options ask of each other.

    Raises:
        UserError: Two options do not go together; the message names both.
    """
    study = config.study
    if not study.methods:
        raise UserError(f"study.methods is empty, but must name some of {', '.join(METHODS)}")
    for method in study.methods:
        if method not in METHODS:
            raise UserError(
                f"study.methods names '{method}'{nearest(method, list(METHODS))}, but the methods "
                f"are {', '.join(METHODS)}"
            )
    if urlsplit(config.tracking.uri).password is not None:
        raise UserError(
            "tracking.uri holds a password, which would be kept with the study; leave it out and "
            "give it by the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, or "
            "what the database reads)"
        )
    if config.search.sampler == "nsga2" and config.search.startup_trials < 2:
        raise UserError(
            f"search.startup_trials is {config.search.startup_trials}, but nsga2 needs at least 2: "
            "its generations have so many trials"
        )
    if not study.shots or min(study.shots) < 1:
        raise UserError(f"study.shots is {study.shots}, but must list whole numbers of at least 1")
    for key, values in (("study.methods", study.methods), ("study.shots", study.shots)):
        if len(set(values)) < len(values):
            raise UserError(f"{key} is {values}, which names a value twice")
    if config.search.draws > study.draws:
        raise UserError(
            f"search.draws is {config.search.draws}, but study.draws is only {study.draws}"
        )
    _check_id(study.id)
    _check_epochs(config)
    _check_pruning(config)
    if study.mode == "pareto":
        _check_pareto(config)


def trial_epochs(config: Config) -> int:
    """The fewest epochs that a fit of a search trial may have."""
    searched = config.search.space.epochs
    if searched is None:
        return config.search.epochs or config.train.epochs
    ends = searched.choices or (searched.low, searched.high)
    numbers = [round(end) for end in ends if isinstance(end, int | float)]
    numbers += [config.train.epochs] if searched.when else []
    return min(numbers, default=config.train.epochs)


def _renamed(key: str, value: Any) -> str:
    if key == "study.selection" and value == "validation":
        return "; 'validation' is called holdout now"
    return ""


def _check_dimension(key: str, dimension: Dimension) -> None:
    if dimension.choices is not None:
        if not dimension.choices:
            raise UserError(f"{key}.choices is empty, but needs at least one value")
        if len({repr(choice) for choice in dimension.choices}) < len(dimension.choices):
            raise UserError(f"{key}.choices is {dimension.choices}, which names a value twice")
        return
    low, high = dimension.low, dimension.high
    if low is None or high is None or not (math.isfinite(low) and low <= high < math.inf):
        raise UserError(
            f"{key} searches from {low} to {high}, but needs choices, or low and high with "
            "low <= high"
        )
    if dimension.log and low <= 0:
        raise UserError(f"{key}.low is {low}, but a logarithmic range must start above 0")
    if dimension.points < 2:
        raise UserError(
            f"{key}.points is {dimension.points}, but a grid takes both ends of a range: at least 2"
        )


def _check_id(study_id: str) -> None:
    if study_id and not all(c.isascii() and (c.isalnum() or c in "-_.") for c in study_id):
        raise UserError(f"study.id is '{study_id}', but may hold only letters, digits and - _ .")
    if study_id and not study_id[0].isalnum():
        raise UserError(f"study.id is '{study_id}', but must begin with a letter or a digit")
    if study_id in _TAKEN:
        raise UserError(
            f"study.id is '{study_id}', but the storage root keeps something else under that name; "
            "choose another study.id"
        )


def _check_epochs(config: Config) -> None:
    if config.search.space.epochs is not None and config.search.epochs:
        raise UserError(
            f"search.epochs is {config.search.epochs}, but search.space.epochs searches the epochs "
            "of a fit; give search.epochs=0 or leave search.space.epochs empty"
        )


def _check_pruning(config: Config) -> None:
    pruning, search = config.search.pruning, config.search
    if not 0 < pruning.p <= _LARGEST_P:
        raise UserError(
            f"search.pruning.p is {pruning.p}, but must be above 0 and at most {_LARGEST_P}"
        )
    if pruning.over == "draws" and search.draws < 3:
        raise UserError(
            f"search.pruning.over is draws, but search.draws is {search.draws}: a paired test over "
            "draws needs two before the last, so at least 3"
        )
    if pruning.over == "epochs" and pruning.first_epoch >= trial_epochs(config):
        raise UserError(
            f"search.pruning.first_epoch is {pruning.first_epoch}, but a fit of a trial may have "
            f"only {trial_epochs(config)} epochs (search.epochs, or train.epochs, or "
            "search.space.epochs), so that no trial could end early"
        )


def _check_pareto(config: Config) -> None:
    study, search = config.study, config.search
    if len(study.shots) < 2:
        raise UserError(
            f"study.mode is pareto, which searches K, but study.shots is {study.shots}; name at "
            "least two"
        )
    if not search.trials:
        raise UserError(
            "study.mode is pareto, but search.trials is 0; a front is found by trials only"
        )
    for key, value, none in (
        ("search.pruning.over", search.pruning.over, "none"),
        ("search.warm_start", search.warm_start, False),
        ("search.budget.min_gain", search.budget.min_gain, 0),
    ):
        if value != none:
            raise UserError(
                f"{key} is {str(value).lower()}, which compares trials of one K, but study.mode is "
                f"pareto; give {key}={str(none).lower()} or study.mode=per_shot"
            )
