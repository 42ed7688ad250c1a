"""What a page of the report is made of: sections of blocks, which one template shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from PIL import Image

from ssprompt_platform.report.figures_base import Picture
from ssprompt_platform.storage import Place


@dataclass(frozen=True)
class Prose:
    """A paragraph each."""

    paragraphs: Sequence[str]
    kind: Literal["prose", "points", "steps"] = "prose"


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be overlooked."""

    text: str
    level: Literal["remark", "missing", "note"] = "note"
    points: Sequence[str] = ()
    kind: Literal["notice"] = "notice"


@dataclass(frozen=True)
class Card:
    """One answer: a number with what it is of, and what may be claimed."""

    title: str
    number: str
    interval: str
    name: str
    text: str
    unit: str = "mIoU"


@dataclass(frozen=True)
class Cards:
    """Answers side by side."""

    cards: Sequence[Card]
    kind: Literal["cards"] = "cards"


@dataclass(frozen=True)
class Exhibit:
    """A figure with its caption, inside the page as a data URI.

    Attributes:
        source: The data URI.
        title: What it shows, in a few words.
        alt: What a reader who does not see it has to know.
        caption: How to read it.
        width: CSS pixels at which its text has the size it was made for.
        height: Height there.
        stem: Name of its files.
        remarks: Sentences that every figure must carry.
    """

    source: str
    title: str
    alt: str
    caption: str
    width: int
    height: int
    stem: str
    remarks: Sequence[str] = ()
    kind: Literal["exhibit"] = "exhibit"


@dataclass(frozen=True)
class Cell:
    """Text of a cell; ``sort`` is what its column is ordered by, empty cells come last."""

    text: str
    sort: float | str | None = None
    look: str = ""
    """A word for the style sheet: best, quiet, warn."""
    note: str = ""
    """A second line, smaller."""


@dataclass(frozen=True)
class Column:
    """A column's title and what stands in it."""

    title: str
    numeric: bool = True
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; remarks follow the caption."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    remarks: Sequence[str] = ()
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Code:
    """Text as it is written in a file."""

    text: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for, and in print."""

    summary: str
    blocks: Sequence[Prose | Notice | Exhibit | Table | Code]
    kind: Literal["fold"] = "fold"


Block = Prose | Notice | Cards | Exhibit | Table | Code | Fold


@dataclass(frozen=True)
class Section:
    """A heading of the page and its table of contents."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def exhibit(
    picture: Picture, title: str, caption: str, *, alt: str = "", remarks: Sequence[str] = ()
) -> Exhibit:
    """A figure of the report: as SVG where it is made of lines, else as pixels."""
    source = data_uri(picture.svg) if picture.vector else photo_uri(picture.png)
    return Exhibit(
        source, title, alt or f"{title}. {caption}", caption, picture.width, picture.height,
        picture.png.stem, remarks,
    )  # fmt: skip


def photo_uri(path: Place) -> str:
    """A PNG that shows photographs as a data URI of a WebP: a tenth of its size."""
    pixels = io.BytesIO()
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        picture.convert("RGB").save(pixels, format="WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(pixels.getvalue()).decode()}"


def data_uri(path: Place) -> str:
    """A PNG or SVG file as a data URI."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def remarked(table: Table, remarks: Sequence[str]) -> Table:
    """A table with remarks after its caption."""
    return replace(table, remarks=remarks)
