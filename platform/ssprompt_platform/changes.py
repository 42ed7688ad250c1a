"""What differs between two configurations of one study, and which differences only extend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FREE = frozenset(
    {
        "study.id",
        "study.dry_run",
        "study.resume",
        "storage.root",
        "tracking.uri",
        "tracking.experiment",
        "tracking.must_answer",
        "tracking.patience",
        "tracking.register",
        "tracking.model",
        "train.workers",
        "train.compile",
        "train.fits_together",
        "search.max_concurrent",
    }
)
"""Keys that change no number but by rounding: they may change between two parts of a study."""


_ADDED: Mapping[str, Any] = {"model.precision": "fp32", "storage.embeddings": "float32"}
"""Keys that earlier versions did not have, with what they did."""


def _superset(before: Any, now: Any) -> bool:
    return set(now) >= set(before)


def _larger(before: Any, now: Any) -> bool:
    return bool(now > before)


def _longer(before: Any, now: Any) -> bool:
    return bool(now[: len(before)] == before)


def _any(before: Any, now: Any) -> bool:
    return True


_EXTENSIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "study.shots": _superset,
    "study.methods": _superset,
    "study.draws": _larger,
    "search.trials": _larger,
    "search.enqueue": _longer,
    "search.budget.minutes": _any,
    "search.budget.gpu_hours": _any,
    "search.budget.min_gain": _any,
}
"""Keys that may grow: what is there stays right, and only the difference has to be run."""


@dataclass(frozen=True)
class Change:
    """One key that differs.

    Attributes:
        key: Dotted.
        before: What the study was begun, or last extended, with.
        now: What it is now.
        extends: Whether everything done so far stays right.
    """

    key: str
    before: Any
    now: Any
    extends: bool


def changes_of(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every difference of two configurations that counts, by key.

    Args:
        before: Configuration with dotted keys, as it was.
        now: As it is.
    """
    # the choices of a search dimension cannot grow in a search that has begun
    fixed = {"study.shots"} if now.get("study.mode") == "pareto" else set()
    changes = []
    for key in sorted(before.keys() | now.keys()):
        # a dimension that is not searched is empty and has no keys of its own
        old, new = before.get(key, _ADDED.get(key)), now.get(key)
        if key in _FREE or old == new:
            continue
        known = key in before and key in now and key in _EXTENSIONS and key not in fixed
        changes.append(Change(key, old, new, known and _EXTENSIONS[key](old, new)))
    return tuple(changes)


def told(change: Change) -> str:
    """One change in words."""
    return f"{change.key}: {change.before} -> {change.now}"


def refusal(study_id: str, changes: Sequence[Change], others: Sequence[str]) -> str:
    """Why a study cannot go on: every change in a line of its own, then what to do.

    Args:
        study_id: Of the study.
        changes: Of the configuration.
        others: What has other content: data, validation, segmenter, text encoder.
    """
    some_extend = any(change.extends for change in changes)
    lines = [f"study.id={study_id} was begun with other settings, data or weights:"]
    for change in changes:
        mark = "  (would extend the study)" if change.extends else ""
        lines.append(f"  {told(change)}{mark}")
    lines += [f"  {what.replace('_', ' ')}: its content has changed" for what in others]
    what = "the changes that are not marked" if some_extend else "these changes"
    lines.append(f"undo {what} to go on with this study, or choose another study.id")
    return "\n".join(lines)
