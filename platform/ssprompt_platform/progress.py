"""Progress of the phases of a study: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_LINE_EVERY_SECONDS = 5.0


class Progress:
    """Shows phases and keeps how long each took.

    Args:
        console: Where to write; not a terminal means one plain line every few seconds.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Time a phase of ``total`` units; yields a function that counts finished units."""
        show = self._bar if self.console.is_terminal else self._lines
        with self.timed(name), show(name, total) as advance:
            yield advance

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase without showing it."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 2)

    @contextmanager
    def _bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=total)
            yield lambda count: bars.advance(task, count)

    @contextmanager
    def _lines(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        done, last = 0, time.monotonic()
        self.say(f"{name}: {total}")

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            if time.monotonic() - last > _LINE_EVERY_SECONDS or done == total:
                last = time.monotonic()
                self.say(f"{name}: {done}/{total}")

        yield advance
