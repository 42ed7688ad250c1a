"""Metrics of a study as a whole, looked at every few seconds while its driver lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from ssprompt_platform.metrics.names import BACKLOG, PHASE_SECONDS, RUNNING
from ssprompt_platform.metrics.recorder import forget, refresh, show

_EVERY_SECONDS = 5.0


class StudyMetrics:
    """Shows what no event tells, in a thread of its own; a context of the study.

    It also keeps the study's other gauges alive, which Ray would drop 20 s after their last change;
    so it drops all of them some 20 s after the process has ended.

    Args:
        study: The study's id.
        backlog: How many events MLflow was not told yet.
        phases: Seconds that phases took, by name; it grows while the study runs.
        every: Seconds between two looks.
    """

    def __init__(
        self,
        study: str,
        backlog: Callable[[], int],
        phases: Mapping[str, float],
        every: float = _EVERY_SECONDS,
    ) -> None:
        self._study, self._backlog, self._phases, self._every = study, backlog, phases, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssprompt-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._look(1)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        # a look may read a long journal; the study does not wait for it
        self._thread.join(1.0)
        self._look(0)
        forget("study", self._study)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._look(1)

    def _look(self, running: int) -> None:
        refresh()
        show(RUNNING, running, study=self._study)
        # a copy: another thread adds to it
        for phase, seconds in dict(self._phases).items():
            show(PHASE_SECONDS, seconds, study=self._study, phase=phase)
        try:
            backlog = self._backlog()
        except OSError:
            return  # the journal's disk has trouble, which the study tells by itself
        show(BACKLOG, backlog, study=self._study)
