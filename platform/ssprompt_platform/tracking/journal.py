"""What is to be told to MLflow, as lines of JSON on disk: appended here, read by the sender."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
NAME = "journal.jsonl"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line of a journal.

    Attributes:
        event: What it says; None where it is no JSON object.
        text: The line itself.
        begin: Where it begins, in bytes.
        end: Where the next one begins.
    """

    event: dict[str, Any] | None
    text: str
    begin: int
    end: int


class Journal:
    """Appends events; each is in the kernel's hands before the call returns.

    So a killed process loses none. A line that a kill or a power cut left half-written is removed
    when the journal is opened again. One process writes at a time: the one that runs the study.

    Args:
        folder: Where it lies; made if it is not there.
        uid: Identity of the study that it is of. A journal of another one, whose folder was
            deleted and begun again, is moved beside this one.
    """

    def __init__(self, folder: Path, uid: str) -> None:
        _give_way(folder, uid)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self._lock = threading.Lock()
        self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.size = _whole(self.path)
        os.ftruncate(self._handle, self.size)
        if not self.size:
            self.append("journal", version=VERSION, uid=uid, id=uuid.uuid4().hex)

    def append(self, kind: str, **content: Any) -> int:
        """Add an event with the time of now, in milliseconds.

        Returns:
            That time.

        Raises:
            OSError: The disk is full; nothing of the event was kept.
        """
        at = time.time_ns() // 1_000_000
        event = {"at": at, "event": kind, **content}
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock:
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[os.write(self._handle, rest) :]
            except OSError:
                os.ftruncate(self._handle, self.size)
                raise
            self.size += len(line)
        return at

    def close(self) -> None:
        """End writing."""
        with self._lock:
            os.close(self._handle)


def read(path: Path, begin: int, most: int, longest: int = 1 << 20) -> list[Line]:
    """Whole lines from a position on: at most so many, and about so many bytes.

    A last line that is not whole yet is not returned.
    """
    lines: list[Line] = []
    with path.open("rb") as file:
        file.seek(begin)
        end = begin
        while len(lines) < most and end - begin < longest:
            raw = file.readline()
            if not raw.endswith(b"\n"):
                break
            lines.append(
                Line(
                    _parsed(raw), raw.decode(errors="replace").rstrip(), end, end := end + len(raw)
                )
            )
    return lines


def of_runs(lines: list[Line], most: int) -> list[Line]:
    """The first lines, as many as are of so many runs."""
    keys: set[object] = set()
    for number_, line in enumerate(lines):
        keys.add((line.event or {}).get("key"))
        if len(keys) > most:
            return lines[:number_]
    return lines


def settle(path: Path) -> None:
    """Wait until the disk has all that was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def header(path: Path) -> dict[str, Any] | None:
    """The first event of a journal; None where there is none."""
    if not path.is_file():
        return None
    first = read(path, 0, 1)
    return first[0].event if first else None


def count(path: Path, begin: int) -> int:
    """How many events lie behind a position."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(begin)
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def number(value: float) -> float | str:
    """A number as JSON has it: a name for what is not finite."""
    return value if math.isfinite(value) else str(value)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(raw)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event and "at" in event else None


def _whole(path: Path) -> int:
    """Bytes of the journal up to the end of its last whole line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            begin = max(0, size - _BLOCK)
            file.seek(begin)
            found = file.read(size - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            size = begin
    return 0


def _give_way(folder: Path, uid: str) -> None:
    """Move the journal of a former study of the same name away; it can still be delivered."""
    first = header(folder / NAME)
    if first is None or first.get("uid") in (None, uid):
        return
    number_, other = 1, folder.with_name(f"{folder.name}-{first['uid']}")
    while other.exists():
        number_ += 1
        other = folder.with_name(f"{folder.name}-{first['uid']}-{number_}")
    folder.rename(other)
