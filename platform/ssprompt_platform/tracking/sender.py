"""The one thread of the driver that tells MLflow; the study never waits for it but at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from ssprompt_platform.tracking.delivery import Delivery

_TOGETHER_SECONDS = 0.5
"""Events that come within this time go together."""
_IDLE_SECONDS = 60.0
_REFUSALS_TOLD = 3
_SLOWEST = 5.0
"""A step that is under way may take so many times the patience: a large file, a slow disk."""
_DONE = object()


class Sender:
    """Delivers a journal while it grows.

    Args:
        delivery: Of the journal; this thread's own from now on.
        say: Where a warning is shown.
        chores: What is to be done when there is nothing else, step by step: other studies that
            ended without telling everything.
    """

    def __init__(
        self,
        delivery: Delivery,
        say: Callable[[str], None],
        chores: Callable[[Delivery], Iterator[object]],
    ) -> None:
        self._delivery, self._say, self._chores = delivery, say, chores
        self._wake, self._stop = threading.Event(), threading.Event()
        self._idle = threading.Event()
        self._closing = False
        self._warned = False
        self._refused = 0
        delivery.on_refused(self._refusal)
        self._thread = threading.Thread(target=self._run, name="ssprompt-tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to tell."""
        self._wake.set()

    def close(self, patience: float) -> bool:
        """Wait until everything is told: while it gets on, or for ``patience`` seconds of hope.

        Returns:
            Whether everything was told.
        """
        self._closing = True
        self._delivery.hasten()
        self._wake.set()
        last, since = self._delivery.told, time.monotonic()
        try:
            while self._thread.is_alive() and not self._delivery.done:
                waited = time.monotonic() - since
                slow = not self._delivery.fault and waited < _SLOWEST * patience
                if waited >= patience and not slow:
                    break
                self._idle.wait(0.05)
                self._idle.clear()
                if self._delivery.told != last:
                    last, since = self._delivery.told, time.monotonic()
            return self._delivery.done
        finally:
            self._stop.set()
            self._wake.set()
            self._thread.join(1.0)

    @property
    def refused(self) -> int:
        """Events that MLflow refused in this part of the study."""
        return self._refused

    @property
    def fault(self) -> str:
        """Why something waits; empty: nothing does."""
        return self._delivery.fault

    def _run(self) -> None:
        chores: Iterator[object] | None = None
        with closing(self._delivery) as delivery:
            while not self._stop.is_set():
                told = delivery.work()
                self._tell_state(delivery, told)
                if told:
                    continue
                self._idle.set()
                if chores is None and not delivery.fault:
                    chores = self._chores(delivery)
                if self._closing or chores is None or not _step(chores):
                    self._rest(delivery)

    def _rest(self, delivery: Delivery) -> None:
        pause = delivery.pause
        if pause:
            # new events do not make MLflow answer sooner; the end of the study does ask again
            self._stop.wait(min(pause, 0.2) if not self._closing else min(pause, 0.05))
            return
        if not delivery.done or self._wake.wait(_IDLE_SECONDS):
            self._wake.clear()
            if not self._closing:
                self._stop.wait(_TOGETHER_SECONDS)

    def _tell_state(self, delivery: Delivery, told: bool) -> None:
        if delivery.busy:
            return
        if delivery.down and not self._warned:
            self._warned = True
            self._say(
                f"warning: {delivery.down} ({delivery.target.shown}) cannot be told anything now: "
                f"{delivery.fault}; the study goes on, and what is to be told waits on disk"
            )
        elif self._warned and told and not delivery.down:
            self._warned = False
            self._say("MLflow answers again; what waited is told now")

    def _refusal(self, what: str, reason: str) -> None:
        self._refused += 1
        if self._refused <= _REFUSALS_TOLD:
            self._say(f"warning: MLflow refused {what}: {reason}; it is kept in refused.jsonl")


def _step(chores: Iterator[object]) -> bool:
    """Do one step of the chores; False where there is none left, or it does not work now."""
    try:
        return next(chores, _DONE) is not _DONE
    except Exception:  # noqa: BLE001  (no matter of this study: the job tells what is wrong)
        return False
