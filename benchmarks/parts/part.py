"""One table of `docs/performance.md`: its shape, its Markdown, and how a part is run alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True)
class Part:
    """What one part measured.

    Attributes:
        title: Heading of the table.
        question: One or two sentences: what is measured and how.
        columns: Heads of the columns, with their units.
        rows: A cell for every column. The first is a name; numbers are shown with three digits,
            texts as they are, None as a dash.
        notes: What to know when reading the table; one paragraph each, below it.
    """

    title: str
    question: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"part '{self.title}' has a row of {len(row)} cells below {len(self.columns)} "
                    f"columns: {list(row)}"
                )

    def markdown(self) -> list[str]:
        """Lines of the section, the last one empty."""
        lines = [f"## {self.title}", "", self.question, ""]
        lines += table(self.columns, self.rows)
        for note in self.notes:
            lines += [note, ""]
        return lines

    @classmethod
    def from_json(cls, text: str) -> Part:
        """The part that ``--json`` wrote.

        Raises:
            ValueError: The text is none.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not the JSON of a part: {error}") from error


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    """A Markdown table and an empty line; columns with a number in them are aligned right."""
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    yield _line(columns)
    yield f"|{'|'.join('---:' if right else '---' for right in numeric)}|"
    for row in rows:
        yield _line([shown(cell) for cell in row])
    yield ""


def shown(cell: Cell) -> str:
    """A cell as text: three digits of a float, all of an integer."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        if cell != cell:
            return "-"
        digits = 2 if abs(cell) < 10 else 1 if abs(cell) < 100 else 0
        return f"{cell:,.3g}" if 0 < abs(cell) < 0.1 else f"{cell:,.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def run_part(measure: Callable[[bool], Part], arguments: Sequence[str] | None = None) -> int:
    """The command line of a part: ``sys.exit(run_part(measure))`` below ``__main__``."""
    parser = argparse.ArgumentParser(
        description=sys.modules[measure.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less steady figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    part = measure(options.quick)
    if options.json:
        # a reader never finds half of it
        draft = options.json.with_name(f".{options.json.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(part), indent=1))
        draft.replace(options.json)
    print("\n".join(part.markdown()))
    return 0


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
