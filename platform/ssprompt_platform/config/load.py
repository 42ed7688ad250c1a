"""Study file + command line -> a checked :class:`Config`; every mistake names its key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.config.schema import Config, SpaceConfig


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
    _leave_default_choices(config.search.space, layers)
    # here, since these know the methods, and with them torch: --help and an unknown key do without
    from ssprompt_platform.config.checks import check_study, check_values
    from ssprompt_platform.search.checks import check_search

    check_values(config)
    check_study(config)
    check_search(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, as stored and compared."""
    return dataclasses.asdict(config)


def group_of(kind: Any) -> type | None:
    """The group of options that a type hint is or may be, or None."""
    for member in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if dataclasses.is_dataclass(member):
            return typing.cast(type, member)
    return None


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
    kinds = typing.get_type_hints(schema)
    for key, value in layer.items():
        full = f"{prefix}{key}"
        if key not in known:
            elsewhere = _all_keys(Config, "")
            hint = nearest(full, elsewhere) or nearest(str(key), sorted(known))
            raise UserError(f"unknown key '{full}'{hint}; see --help for all keys")
        group = group_of(kinds[key])
        if group is not None and not (value is None and group is not kinds[key]):
            if not isinstance(value, Mapping):
                inner = ", ".join(f.name for f in dataclasses.fields(group))
                raise UserError(f"'{full}' is a group with the keys {inner}; found {value!r}")
            _check_keys(value, group, f"{full}.")
        elif kinds[key] == list[dict[str, Any]] and not _is_list_of_settings(value):
            # the merge would not say where the wrong item is
            raise UserError(f"{full} is {value!r}, but must be {_type_name(full)}")


def _is_list_of_settings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _all_keys(schema: type, prefix: str) -> list[str]:
    keys: list[str] = []
    for name, kind in typing.get_type_hints(schema).items():
        full, group = f"{prefix}{name}", group_of(kind)
        if group is not None:
            keys += _all_keys(group, f"{full}.")
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
        group = group_of(kind)
        kind = typing.get_type_hints(group).get(part) if group is not None else None
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
        list[dict[str, Any]]: "a list of settings, as in [{lr_embedding: 0.2}]",
        dict[str, Any] | None: "names with lists of values, as in {embedding_init: [normal]}",
    }
    return names.get(kind, "of another type")


def _leave_default_choices(space: SpaceConfig, layers: Sequence[Mapping[str, Any]]) -> None:
    """Let ``low`` and ``high`` replace the choices of the layers before, the defaults included."""
    for layer in layers:
        given = (layer.get("search") or {}).get("space") or {}
        for name, keys in given.items():
            dimension = getattr(space, name)
            if keys is None or dimension is None:
                continue
            if keys.get("choices") is not None:
                dimension.choices = list(keys["choices"])
            elif {"low", "high"} & set(keys):
                dimension.choices = None
