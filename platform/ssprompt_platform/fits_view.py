"""What is shown while the final fits run: how many are done, and the means so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ssprompt_core.methods import METHODS
from ssprompt_platform import plan
from ssprompt_platform.fit_files import failed_path, record_path
from ssprompt_platform.live_table import LiveTable, duration, score_text
from ssprompt_platform.plan import FitKey
from ssprompt_platform.storage import Place, read_json

_AROUND = 5
"""Lines of the terminal that rows of the table cannot have."""


@dataclass
class _Row:
    total: int = 0
    failed: int = 0
    scores: list[float] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.scores)

    @property
    def open(self) -> bool:
        return self.done + self.failed < self.total

    def mean(self) -> str:
        if not self.scores:
            return ""
        return f"{score_text(sum(self.scores) / self.done)} over {self.done}"


class FitsView(LiveTable):
    """A row per method and K: fits done and failed, running mean of their test mIoU.

    Args:
        console: Where to write.
        fits: All final fits of the study.
        clock: As for :class:`LiveTable`.
        counted: Told of each fit that has ended, with its record.
    """

    def __init__(
        self,
        console: Console,
        fits: Sequence[FitKey],
        clock: Callable[[], float] = time.monotonic,
        counted: Callable[[FitKey, Mapping[str, Any]], None] = lambda key, record: None,
    ) -> None:
        super().__init__(console, clock)
        self._counted = counted
        self._rows: dict[plan.Group, _Row] = {}
        for key in fits:
            self._rows.setdefault(key.group, _Row()).total += 1
        self._here = 0
        self._latest: plan.Group | None = None

    def known(self, key: FitKey, record: Mapping[str, Any]) -> None:
        """Count a fit that an earlier part of the study finished or gave up."""
        self._count(key, record)
        if "cause" in record:
            self.say(
                f"final fit {key.name} failed before ({record['cause']}); to run it again, delete "
                f"its {key.name}.failed.json"
            )

    def settled(self, key: FitKey, fits: Place) -> None:
        """Count a fit that has just ended, by its record in the folder of the fits."""
        finished, failed = record_path(fits, key), failed_path(fits, key)
        record = read_json(finished if finished.is_file() else failed)
        self._count(key, record)
        with self._lock:
            self._here += 1
            self._latest = key.group
        if "cause" in record:
            self.say(
                f"final fit {key.name} failed: {record['cause']}; to run it again, delete {failed}"
            )
        self.tick()

    def table(self, width: int, height: int) -> RenderableType:
        """A row per method and K; of more than fit, those with fits to do first."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("final fits", no_wrap=True, overflow="ellipsis")
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("failed", justify="right", no_wrap=True)
        table.add_column("mIoU on the test images", no_wrap=True, overflow="ellipsis")
        room = max(1, height - _AROUND)
        shown = list(self._rows)
        if len(shown) > room:
            room = max(1, room - 1)
            # sorted keeps the order of the table within each half
            first = set(sorted(shown, key=lambda group: not self._rows[group].open)[:room])
            shown = [group for group in shown if group in first]
        for group in shown:
            row = self._rows[group]
            failed = Text(str(row.failed), "red") if row.failed else Text("")
            table.add_row(_label(group), f"{row.done}/{row.total}", failed, row.mean())
        if len(shown) < len(self._rows):
            table.add_row(f"and {len(self._rows) - len(shown)} more", "", "", "", style="dim")
        ended, left = self._ended()
        parts = [ended, f"{duration(self.elapsed)} elapsed", left]
        return Group(table, Text("  ".join(part for part in parts if part)))

    def line(self) -> str:
        """Number done, the mean of the method and K that came last, and the time left."""
        ended, left = self._ended()
        latest = self._latest
        mean = self._rows[latest].mean() if latest else ""
        parts = [f"final fits {ended}", f"{_label(latest)} {mean}" if latest and mean else "", left]
        return "  ".join(part for part in parts if part)

    def _ended(self) -> tuple[str, str]:
        """How many fits have ended, and how long the others will take."""
        rows = self._rows.values()
        failed, total = sum(row.failed for row in rows), sum(row.total for row in rows)
        ended = failed + sum(row.done for row in rows)
        text = f"{ended}/{total}" + (f" ({failed} failed)" if failed else "")
        if not self._here or ended == total:
            return text, ""
        return text, f"about {duration((total - ended) * self.elapsed / self._here)} left"

    def _count(self, key: FitKey, record: Mapping[str, Any]) -> None:
        self._counted(key, record)
        with self._lock:
            row = self._rows[key.group]
            if "cause" in record:
                row.failed += 1
            else:
                row.scores.append(float(record["miou"]))


def _label(group: plan.Group) -> str:
    learns = METHODS[group.method].uses_support
    return f"{group.method} K={group.shots}" if learns else group.method
