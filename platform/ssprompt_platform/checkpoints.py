"""Resumable state of one trial or fit in a folder of its own; survives a kill at any instant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssprompt_core.errors import UserError
from ssprompt_core.train.state import TrainState
from ssprompt_platform.storage import (
    Place,
    child_names,
    local_file,
    read_json,
    remove,
    remove_tree,
    write_json,
    write_whole,
)

_RECORD = "checkpoint.json"


def save(place: Place, progress: Mapping[str, Any], state: TrainState | None) -> None:
    """Keep progress and the state that belongs to it, in place of what was kept before.

    The state gets a name that no checkpoint refers to; then the JSON that names it replaces the
    old one in one step. Whenever the process is killed, either the old pair or the new one counts.

    Args:
        place: Folder of this trial or fit alone, with one writer at a time; made where missing.
        progress: Any JSON object.
        state: Training state, or None where no fit is under way.
    """
    number = _number(place) + 1
    name = None
    if state is not None:
        name = f"state-{number}.safetensors"
        write_whole(place / name, state.save)
    write_json(place / _RECORD, {"number": number, "state": name, "progress": dict(progress)})
    for other in child_names(place) - {_RECORD, name}:
        # the older state, and what a killed process left half-written; one that is just dying may
        # still take its own away
        remove(place / other)


def load(place: Place) -> tuple[dict[str, Any], TrainState | None] | None:
    """The last progress and state that were kept, or None where there is no whole checkpoint.

    A damaged one, as a power cut may leave, counts as none: work is repeated, never made up.
    """
    record = _read(place)
    if record is None:
        return None
    if record["state"] is None:
        return record["progress"], None
    try:
        with local_file(place / record["state"]) as path:
            return record["progress"], TrainState.load(path)
    except (FileNotFoundError, UserError):
        return None


def clear(place: Place) -> None:
    """Forget the checkpoint; without one there is nothing to do."""
    # the JSON first: what a kill leaves then is no checkpoint
    remove(place / _RECORD)
    remove_tree(place)


def _read(place: Place) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = read_json(place / _RECORD)
    except (FileNotFoundError, ValueError):
        return None
    return record


def _number(place: Place) -> int:
    record = _read(place)
    return 0 if record is None else int(record["number"])
