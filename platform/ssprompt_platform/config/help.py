"""The text of ``--help``, generated from the options' own metadata."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from ssprompt_platform.config.schema import Config, Dimension

_INTRODUCTION = """\
Tune learned prompts of a frozen Segment Anything model with K labelled images per class.

One command runs a whole study: it encodes each image once, searches the hyperparameters of each
method and K on labelled images outside the support set, fits the best setting on every support
draw, scores each fit once on the untouched test split, and reports mean and confidence interval.

usage: python jobs/tune_shots.py [study=<name or path.yaml>] [group.key=value ...]

commands
  python jobs/tune_shots.py                                   the study 'default' (embedded data)
  python jobs/tune_shots.py study=smoke                       about a minute
  python jobs/tune_shots.py study=smoke study.dry_run=true    print the plan, run nothing
  python jobs/tune_shots.py study.shots=[1,2,4] search.trials=8 study.methods=[sem,ssprompt]
  python jobs/tune_shots.py search.space.num_prompts.choices=[16] \\
      search.space.lr_embedding.low=0.05 search.space.lr_embedding.high=0.5
  python jobs/tune_shots.py data.kind=folder data.images=img data.labels=lab \\
      data.classes=classes.txt data.ignore_ids=[11] study.shots=[1,2]
  ray job submit --working-dir . -- python jobs/tune_shots.py study=smoke search.trials=2

A study is continued by giving its id again (study.id=...); finished fits are not repeated.
"""


def help_text() -> str:
    """What the job does, its commands and every key with default and meaning."""
    lines = [_INTRODUCTION]
    for field in dataclasses.fields(Config):
        group = typing.get_type_hints(Config)[field.name]
        lines.append(f"{field.name}: {(group.__doc__ or '').strip()}")
        lines += _describe(group(), f"{field.name}.")
        lines.append("")
    return "\n".join(lines)


def _describe(group: Any, prefix: str) -> list[str]:
    lines = []
    for field in dataclasses.fields(group):
        value, key = getattr(group, field.name), f"{prefix}{field.name}"
        if isinstance(value, Dimension):
            lines.append(_line(key, _range(value), field.metadata["meaning"]))
        elif dataclasses.is_dataclass(value):
            lines.append(f"  {key}.<name>.low/.high/.log or .choices: {type(value).__doc__}")
            lines += _describe(value, f"{key}.")
        else:
            choices = field.metadata["choices"]
            meaning = field.metadata["meaning"] + (f" ({' | '.join(choices)})" if choices else "")
            lines.append(_line(key, _default(value), meaning))
    return lines


def _line(key: str, default: str, meaning: str) -> str:
    return f"  {key}={default}\n      {meaning}"


def _range(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return f"{{choices: {_default(dimension.choices)}}}"
    return f"{{low: {dimension.low:g}, high: {dimension.high:g}, log: {_default(dimension.log)}}}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(str(item) for item in value)}]"
    return "" if value is None else str(value)
