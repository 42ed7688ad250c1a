"""What lies below a place, on a disk or in a bucket, and how much of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import Place, S3Path

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or an object.

    Attributes:
        place: Where it lies.
        size: In bytes.
        modified: Seconds since the epoch; of a bucket by the server's clock.
    """

    place: Place
    size: int
    modified: float


@dataclass
class Amount:
    """How much something is: its objects (or files) and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int, objects: int = 1) -> None:
        """Count more of it."""
        self.objects += objects
        self.bytes += size

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.objects + other.objects, self.bytes + other.bytes)


@dataclass
class Tally:
    """Amounts by kind, in the order in which the kinds turned up."""

    kinds: dict[str, Amount] = field(default_factory=dict)

    def add(self, kind: str, size: int, objects: int = 1) -> None:
        """Count more of a kind."""
        self.kinds.setdefault(kind, Amount()).add(size, objects)

    @property
    def total(self) -> Amount:
        """Of all kinds."""
        return sum(self.kinds.values(), Amount())


def entries(place: Place) -> Iterator[Entry]:
    """Every file or object below a place, in no special order; links are not followed.

    Raises:
        StorageError: A bucket did not answer, or refused.
    """
    if isinstance(place, S3Path):
        for found in place.walk():
            yield Entry(found.path, found.size, found.modified.timestamp())
        return
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            try:
                told = path.lstat()
            except FileNotFoundError:
                continue  # it went away meanwhile
            yield Entry(path, told.st_size, told.st_mtime)


def parts_below(place: Place, root: Place) -> tuple[str, ...]:
    """Names that lead from a root to a place below it.

    Raises:
        ValueError: It does not lie below that root.
    """
    if isinstance(place, S3Path):
        assert isinstance(root, S3Path)
        return place.relative_to(root).parts
    assert isinstance(root, Path)
    return place.relative_to(root).parts


def measured(found: Iterable[Entry]) -> Amount:
    """How much some entries are together."""
    amount = Amount()
    for entry in found:
        amount.add(entry.size)
    return amount


def seconds_of(text: str) -> float:
    """Read an age such as ``90m``, ``36h``, ``1d`` or ``2w``.

    Raises:
        UserError: It is not of that form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise UserError(f"'{text}' is no age; write a number and s, m, h, d or w, as in 1d")
    return float(match[1]) * _SECONDS[match[2]]
