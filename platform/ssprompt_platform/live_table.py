"""A table that lives on a terminal, and plain lines where there is none."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

_REFRESHES_PER_SECOND = 2
_LINE_EVERY_SECONDS = 5.0


class LiveTable(ABC):
    """Shows the state of a phase while it runs; a context manager.

    A terminal is drawn anew twice a second by a thread of its own, however often the state changes.
    Elsewhere (a file, a pipe, the log of a Ray job) a line follows a change, at most one in a few
    seconds; what is told by :meth:`say` is never left out.

    Args:
        console: Where to write.
        clock: Seconds since any moment.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        # the drawing thread reads what the driver changes
        self._lock = threading.RLock()
        self._begun = self._last_line = clock()
        self._said = ""
        self._live: Live | None = None

    @abstractmethod
    def table(self, width: int, height: int) -> RenderableType:
        """The state now, in at most ``height`` lines."""

    @abstractmethod
    def line(self) -> str:
        """The state now, in a line that needs no other."""

    def __enter__(self) -> Self:
        self._begun = self._last_line = self._clock()
        if self._console.is_terminal:
            # made here, since it draws at once
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()
        else:
            self._print_line()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        else:
            self._print_line()

    @property
    def elapsed(self) -> float:
        """Seconds since the block was entered."""
        return self._clock() - self._begun

    def say(self, text: str) -> None:
        """Print a line of its own, on a terminal above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Without a terminal: print the state if it changed and the last line is old enough."""
        if not self._live and self._clock() - self._last_line >= _LINE_EVERY_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        text = self.line()
        self._last_line = self._clock()
        if text != self._said:
            self._said = text
            self.say(text)

    def _draw(self) -> RenderableType:
        with self._lock:
            return self.table(self._console.width, self._console.height)


def duration(seconds: float) -> str:
    """Seconds in words, rounded as one would tell them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def score_text(value: float) -> str:
    """An mIoU to three digits, without the zero that all of them begin with."""
    return f"{value:.3f}".removeprefix("0")
