"""What MLflow accepts: names, values and how much at once."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
MOST_METRICS = 1000
MOST_PARAMS = 100
MOST_TAGS = 100
MOST_BYTES = 500_000
"""Of parameters and tags in one request; MLflow takes 1,000,000 of everything together."""

_LARGEST = 1e300
_CUT = " ... (cut)"
_MARK = 12

Item = TypeVar("Item")


def legal_name(text: str) -> str:
    """A name that MLflow accepts for a metric, parameter or tag, the same for the same text.

    Characters that it refuses become underscores. A name that is too long keeps its beginning and
    gets a digest of the whole, so that two long names stay two.
    """
    name = re.sub(r"[^\w\-. :/]", "_", text)
    # names are taken for relative paths, which must not lead elsewhere
    parts = ["_" * len(part) if set(part) <= {"."} else part for part in name.split("/")]
    name = "/".join(part or "_" for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:_MARK]
    return f"{name[: LONGEST_NAME - _MARK - 1]}-{digest}"


def cut(text: str, longest: int) -> str:
    """A text that is short enough; one that was too long says that it was cut."""
    return text if len(text) <= longest else text[: longest - len(_CUT)] + _CUT


def finite(value: float) -> float:
    """The value, or the largest of its sign: databases hold no infinities, but a mark for NaN."""
    return math.copysign(_LARGEST, value) if math.isinf(value) else value


def same(one: float, other: float) -> bool:
    """Whether two values are equal, where NaN equals NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


def batches(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    """The items in parts of at most ``most``."""
    return (items[start : start + most] for start in range(0, len(items), most))


def text_batches(items: Sequence[tuple[str, str]], most: int) -> Iterator[list[tuple[str, str]]]:
    """Names with texts in parts of at most ``most`` pairs and :data:`MOST_BYTES` bytes."""
    batch: list[tuple[str, str]] = []
    size = 0
    for name, text in items:
        # a character of JSON may take six bytes
        bytes_of = len(name) + len(text.encode("unicode_escape")) + 30
        if batch and (len(batch) == most or size + bytes_of > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((name, text))
        size += bytes_of
    if batch:
        yield batch
