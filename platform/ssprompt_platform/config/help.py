"""The text of ``--help``, generated from the options' own metadata."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from typing import Any

from ssprompt_platform.config.load import group_of
from ssprompt_platform.config.schema import Config, Dimension, SpaceConfig

_INTRODUCTION = """\
Tune learned prompts of a frozen Segment Anything model with K labelled images per class.

One command runs a whole study: it encodes each image once, searches the hyperparameters of each
method and K on labelled images outside the test split, fits the best setting on every support
draw, scores each fit once on the untouched test split, and reports mean and confidence interval.

usage: python jobs/tune_shots.py [study=<name or path.yaml>] [--explain] [group.key=value ...]

commands
  python jobs/tune_shots.py                                   the study 'default' (embedded data)
  python jobs/tune_shots.py study=smoke                       about a minute
  python jobs/tune_shots.py study=smoke --explain             tell in words what will be done, and
                                                              on which images; run nothing
  python jobs/tune_shots.py study=smoke study.dry_run=true    print the plan and how long it will
                                                              take; run nothing
  python jobs/tune_shots.py study.shots=[1,2,4] search.trials=8 study.methods=[sem,ssprompt]
  python jobs/tune_shots.py search.space.num_prompts.choices=[16] \\
      search.space.lr_embedding.low=0.05 search.space.lr_embedding.high=0.5
  python jobs/tune_shots.py data.kind=folder data.images=img data.labels=lab \\
      data.classes=classes.txt data.ignore_ids=[11] study.shots=[1,2]
  ray job submit --working-dir . -- python jobs/tune_shots.py study=smoke search.trials=2
  python jobs/report.py <id>                                  the report of a study so far, from
                                                              what is stored; --help tells more

stop and go on
  Ctrl-C (or SIGTERM) ends a study cleanly and prints the command that continues it. After any other
  end, kill -9 included, the same command continues it: nothing that is finished is run again.
  study.resume=never begins anew; study.resume=must never begins, it only continues. A study with an
  id of its own (study.id=...) is continued by giving that id again.
  One process runs a study at a time; a second one is told which.

extend a study
  python jobs/tune_shots.py study.id=mine search.trials=16 study.shots=[1,4,16,32] study.draws=10
  Give the id and more trials, shots, draws, methods or settings to try, or another budget: only
  what is missing runs. Any other change is refused, and every difference is shown.

how hyperparameters are chosen
  study.selection=extra_shots     on min(K, 4) more labelled images per class (the default)
  study.selection=cv              by cross-validation inside the K shots: no more labels are spent
  study.selection=holdout         on the whole validation split; tables and figures then say so
  study.mode=pareto               K is searched too: the front of mIoU and labelled images
  search.sampler=tpe|gp|nsga2|random|grid|sobol
  search.enqueue='[{lr_embedding: 0.2, method: spa, shots: 4}]'     settings to try first
  search.warm_start=true          try the best setting of a K at the next K
  search.pruning.over=epochs      end trials that are behind early: successive halving over epochs
  search.pruning.over=draws       or racing: a paired test after each support draw (search.draws)
  search.budget.minutes=30        end the search by time, GPU-hours or expected gain; the final
                                  fits run all the same
  search.space.epochs.choices=[8,16]                     search a setting of the fit too
  'search.space.lr_embedding.when={embedding_init: [copy]}'    search it only where another one
                                  of the space has such a value
  Quote words with braces or brackets where your shell reads them itself.

exit codes: 0 done, 1 done but something failed, 2 a mistake in the input, 130 and 143 stopped
"""


def help_text() -> str:
    """What the job does, its commands and every key with default and meaning."""
    lines = [_INTRODUCTION]
    for field in dataclasses.fields(Config):
        group = typing.get_type_hints(Config)[field.name]
        lines.append(f"{field.name}: {_paragraph(group)}")
        lines += _describe(group(), f"{field.name}.")
        lines.append("")
    return "\n".join(lines)


def _describe(group: Any, prefix: str) -> list[str]:
    lines = []
    for field in dataclasses.fields(group):
        value, key = getattr(group, field.name), f"{prefix}{field.name}"
        kind = typing.get_type_hints(type(group))[field.name]
        if group_of(kind) is Dimension:
            lines.append(_line(key, _range(value), field.metadata["meaning"]))
        elif dataclasses.is_dataclass(value):
            lines += ["", _wrapped(f"{key}: {_paragraph(type(value))}", 0)]
            if isinstance(value, SpaceConfig):
                keys = ", ".join(option.name for option in dataclasses.fields(Dimension))
                lines.append(_wrapped(f"Each has the keys {keys}. {_paragraph(Dimension)}", 2))
            lines += _describe(value, f"{key}.")
        else:
            choices = field.metadata["choices"]
            meaning = field.metadata["meaning"] + (f" ({' | '.join(choices)})" if choices else "")
            lines.append(_line(key, _default(value), meaning))
    return lines


def _paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").replace("``", "").split())


def _line(key: str, default: str, meaning: str) -> str:
    return f"  {key}={default}\n{_wrapped(meaning, 6)}"


def _wrapped(text: str, indent: int) -> str:
    space = " " * indent
    return textwrap.fill(text, 100, initial_indent=space, subsequent_indent=space)


def _range(dimension: Dimension | None) -> str:
    if dimension is None:
        return ""
    if dimension.choices is not None:
        return f"{{choices: {_default(dimension.choices)}}}"
    return f"{{low: {dimension.low:g}, high: {dimension.high:g}, log: {_default(dimension.log)}}}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(str(item) for item in value)}]"
    return "" if value is None else str(value)
