"""Study file + command line -> a checked :class:`Config`; every mistake names its key."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config, Dimension


def load_config(arguments: Sequence[str], studies: Path) -> Config:
    """Resolve ``study=<name or path>`` and dot-list overrides into a configuration.

    Args:
        arguments: Words of the command line, each ``key=value``.
        studies: Folder of the named study files.

    Raises:
        UserError: An argument, key or value is wrong; the message names it.
    """
    name, overrides = "default", []
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not an override; write key=value, as in search.trials=4")
        if key == "study":
            name = value
        else:
            overrides.append(word)
    path = _study_file(name, studies)
    layers = [_read_study(path), _dot_list(overrides)]
    for layer in layers:
        _check_keys(layer, Config, "")
    config = _merge(layers)
    config.study.name = config.study.name or path.stem
    _check_values(config, "")
    _check_study(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, as stored and compared."""
    return dataclasses.asdict(config)


def _study_file(name: str, studies: Path) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"study={name}: no such file")
        return path
    path = studies / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in studies.glob("*.yaml"))
        raise UserError(
            f"study={name}: there is no such study{nearest(name, known)}; "
            f"named studies are {', '.join(known)}, or give the path of a .yaml file"
        )
    return path


def _read_study(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable study: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold groups such as 'study:' and 'train:' with their keys")
    return typing.cast("dict[str, Any]", content)


def _dot_list(overrides: Sequence[str]) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, YAMLError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the overrides {' '.join(overrides)} cannot be read: {reason}") from error
    return typing.cast("dict[str, Any]", plain)


def _check_keys(layer: Mapping[str, Any], schema: type, prefix: str) -> None:
    known = {field.name for field in dataclasses.fields(schema)}
    types = typing.get_type_hints(schema)
    for key, value in layer.items():
        full = f"{prefix}{key}"
        if key not in known:
            elsewhere = _all_keys(Config, "")
            hint = nearest(full, elsewhere) or nearest(str(key), sorted(known))
            raise UserError(f"unknown key '{full}'{hint}; see --help for all keys")
        if dataclasses.is_dataclass(types[key]):
            if not isinstance(value, Mapping):
                inner = ", ".join(f.name for f in dataclasses.fields(types[key]))
                raise UserError(f"'{full}' is a group with the keys {inner}; found {value!r}")
            _check_keys(value, typing.cast(type, types[key]), f"{full}.")


def _all_keys(schema: type, prefix: str) -> list[str]:
    keys: list[str] = []
    for name, kind in typing.get_type_hints(schema).items():
        full = f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            keys += _all_keys(typing.cast(type, kind), f"{full}.")
        else:
            keys.append(full)
    return keys


def _merge(layers: Sequence[Mapping[str, Any]]) -> Config:
    try:
        merged = OmegaConf.structured(Config)
        for layer in layers:
            merged = OmegaConf.merge(merged, OmegaConf.create(dict(layer)))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "?").split("[")[0]
        value: Any = None
        for layer in layers:
            found: Any = layer
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            value = value if found is None else found
        raise UserError(f"{key} is {value!r}, but must be {_type_name(key)}") from error
    assert isinstance(config, Config)
    return config


def _type_name(key: str) -> str:
    kind: Any = Config
    for part in key.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list[int]: "a list of whole numbers, as in [1,4]",
        list[str]: "a list of names, as in [a,b]",
        float | None: "a number or null",
        str | None: "text or null",
        list[Any] | None: "a list or null",
    }
    return names.get(kind, "of another type")


def _check_values(group: Any, prefix: str) -> None:
    for field in dataclasses.fields(group):
        value, full = getattr(group, field.name), f"{prefix}{field.name}"
        if isinstance(value, Dimension):
            _check_dimension(full, value)
        elif dataclasses.is_dataclass(value):
            _check_values(value, f"{full}.")
        choices, low = field.metadata.get("choices"), field.metadata.get("low")
        if choices and value not in choices:
            raise UserError(
                f"{full} is '{value}', but must be one of {', '.join(choices)}"
                f"{nearest(str(value), choices)}"
            )
        if low is not None and value is not None and not value >= low:
            raise UserError(f"{full} is {value}, but must be at least {low:g}")


def _check_dimension(key: str, dimension: Dimension) -> None:
    if dimension.choices is not None:
        if not dimension.choices:
            raise UserError(f"{key}.choices is empty, but needs at least one value")
        return
    low, high = dimension.low, dimension.high
    if low is None or high is None or not (math.isfinite(low) and low <= high < math.inf):
        raise UserError(
            f"{key} searches from {low} to {high}, but needs choices, or low and high with "
            "low <= high"
        )
    if dimension.log and low <= 0:
        raise UserError(f"{key}.low is {low}, but a logarithmic range must start above 0")


def _check_study(config: Config) -> None:
    study = config.study
    if not study.methods:
        raise UserError(f"study.methods is empty, but must name some of {', '.join(METHODS)}")
    for method in study.methods:
        if method not in METHODS:
            raise UserError(
                f"study.methods names '{method}'{nearest(method, list(METHODS))}, but the methods "
                f"are {', '.join(METHODS)}"
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
    if study.id and not all(c.isalnum() or c in "-_." for c in study.id):
        raise UserError(f"study.id is '{study.id}', but may hold only letters, digits and - _ .")
