"""Metrics of the search, as an observer of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.metrics.names import (
    BEST,
    EPOCHS,
    TRIAL_SECONDS,
    TRIALS,
    TRIALS_ENDED,
    TRIALS_LEFT,
)
from ssprompt_platform.metrics.recorder import count, observe, show
from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.search.records import State, TrialRecord


class SearchMetrics:
    """An :class:`ssprompt_platform.search.grouped.Observer` that exports what it is told.

    Args:
        study: The study's id.
        totals: Trials of each Optuna study.
        records: Trials that earlier parts of the study ended.
    """

    def __init__(
        self, study: str, totals: Mapping[str, int], records: Sequence[TrialRecord] = ()
    ) -> None:
        self._study, self._total = study, sum(totals.values())
        self._running: dict[str, Group] = {}
        self._ended: Counter[tuple[Group, State]] = Counter()
        self._best: dict[Group, float] = {}
        self._shown: set[tuple[Group, str]] = set()
        for record in records:
            if record.state != "running" and record.study in totals:
                group = Group(record.method, record.shots)
                self._ended[group, record.state] += 1
                if record.state == "complete" and record.value is not None:
                    self._improve(group, record.value)
        self._show()

    def started(self, trial: Suggestion) -> None:
        """A trial begins, or goes on."""
        self._running[trial.key] = trial.group
        self._show()

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch, or itself."""
        study, method = self._study, trial.method
        if "end" in metrics:
            observe(TRIAL_SECONDS, float(metrics["seconds"]), study=study, method=method)
        else:
            count(EPOCHS, study=study, method=method)

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        """A trial ended."""
        self._running.pop(trial.key, None)
        self._ended[trial.group, state] += 1
        count(TRIALS_ENDED, 1, state=state, **self._labels(trial.group))
        if state == "complete" and value is not None:
            self._improve(trial.group, value)
        self._show()

    def _improve(self, group: Group, value: float) -> None:
        best = self._best[group] = max(value, self._best.get(group, value))
        show(BEST, best, **self._labels(group))

    def _show(self) -> None:
        now: Counter[tuple[Group, str]] = Counter()
        now.update(self._ended)
        now.update((group, "running") for group in self._running.values())
        # what was shown once goes back to 0 and does not vanish
        self._shown |= now.keys()
        for group, state in self._shown:
            show(TRIALS, now[group, state], state=state, **self._labels(group))
        left = self._total - sum(self._ended.values()) - len(self._running)
        show(TRIALS_LEFT, max(0, left), study=self._study)

    def _labels(self, group: Group) -> dict[str, object]:
        return {"study": self._study, "method": group.method, "shots": group.shots}
