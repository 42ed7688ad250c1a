"""What is shown while the search runs: trials, what runs, the best so far, rate and time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ssprompt_platform.live_table import LiveTable, duration, score_text
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.search.records import State, TrialRecord

_AROUND = 6
"""Lines of the terminal that rows of the table cannot have."""
_WIDE = 90
"""Columns from which there is room for hyperparameters."""
_WORDS: Mapping[State, str] = {"pruned": "pruned", "failed": "failed", "duplicate": "repeated"}
"""What is told of trials that did not end with a score of their own."""
_MAIN = ("num_prompts", "lr_embedding", "lr_weight")


@dataclass(frozen=True)
class _Best:
    value: float
    shots: int
    number: int
    params: Mapping[str, Any]


@dataclass
class _Row:
    """One Optuna study: a method at a K, or a method."""

    total: int
    ended: Counter[State] = field(default_factory=Counter)
    running: dict[int, int] = field(default_factory=dict)
    best: _Best | None = None
    touched: int = 0

    @property
    def done(self) -> int:
        return sum(self.ended.values())


class SearchView(LiveTable):
    """Observes a search and shows a row per Optuna study.

    Args:
        console: Where to write.
        totals: Trials of each Optuna study, by its name without the study's id, in the order of
            the rows.
        records: Trials that earlier parts of the study ended.
        minutes: Budget of the search, over all its parts; 0: none.
        spent_minutes: What earlier parts used of it.
        clock: As for :class:`LiveTable`.
    """

    def __init__(
        self,
        console: Console,
        totals: Mapping[str, int],
        records: Sequence[TrialRecord] = (),
        *,
        minutes: float = 0.0,
        spent_minutes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._rows = {study: _Row(total) for study, total in totals.items()}
        self._minutes, self._spent_minutes = minutes, spent_minutes
        self._run_here = self._touches = 0
        self._best_row = ""
        for record in records:
            row = self._rows.get(record.study)
            if row is not None and record.state != "running":
                row.ended[record.state] += 1
                if record.state == "complete" and record.value is not None:
                    best = _Best(record.value, record.shots, record.number, record.params)
                    self._improve(record.study, best)

    def started(self, trial: Suggestion) -> None:
        """A trial was proposed."""
        with self._lock:
            self._row(trial).running[trial.number] = 0
        self.tick()

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""
        if "end" not in metrics and "epoch" in metrics:
            with self._lock:
                self._row(trial).running[trial.number] = int(metrics["epoch"])
        self.tick()

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        """A trial ended; one that failed has a line of its own."""
        with self._lock:
            row = self._row(trial)
            row.running.pop(trial.number, None)
            row.ended[state] += 1
            # a duplicate takes no time: it says nothing about the rate
            self._run_here += state != "duplicate"
            if state == "complete" and value is not None:
                best = _Best(value, trial.shots, trial.number, trial.hyperparameters)
                self._improve(trial.study, best)
        if state == "failed":
            self.say(f"trial {trial.key} failed: {cause or 'no cause was told'}")
        self.tick()

    def table(self, width: int, height: int) -> RenderableType:
        """A row per Optuna study; of more than fit, those with running trials and the latest."""
        wide = width >= _WIDE
        shown = self._shown(max(1, height - _AROUND))
        columns = self._columns(shown, wide)
        if wide:
            # what the others leave; rich would take from all columns alike
            used = sum(max(map(len, [name, *cells])) + 3 for name, cells in columns.items())
            settings = [_setting(self._rows[study].best) for study in shown]
            columns["its hyperparameters"] = [_cut(text, width - used - 3) for text in settings]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            number = name == "trials" or name in _WORDS.values()
            table.add_column(
                name, justify="right" if number else "left", no_wrap=True, overflow="ellipsis"
            )
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        if len(shown) < len(self._rows):
            table.add_row(f"and {len(self._rows) - len(shown)} more", style="dim")
        footer = [self._ended("trials"), f"{duration(self.elapsed)} elapsed", *self._times()]
        return Group(table, Text("  ".join(footer)))

    def _columns(self, shown: Sequence[str], wide: bool) -> dict[str, list[str]]:
        """Cells by the heads of their columns, from left to right."""
        rows = [self._rows[study] for study in shown]
        columns = {"search": list(shown), "trials": [f"{r.done}/{r.total}" for r in rows]}
        for state, word in _WORDS.items():
            if wide and any(r.ended[state] for r in rows):
                columns[word] = [str(r.ended[state] or "") for r in rows]
        columns["running"] = [_running(r.running) for r in rows]
        columns["best mIoU"] = [
            _best(row.best, number=wide, shots=study.endswith("-pareto"))
            for study, row in zip(shown, rows, strict=True)
        ]
        return columns

    def line(self) -> str:
        """Trials ended, the best one, rate and time left."""
        row = self._rows.get(self._best_row)
        parts = [f"search {self._ended()}"]
        if row is not None and row.best is not None:
            best = row.best
            method = self._best_row.rpartition("-")[0]
            parts.append(
                f"best {method} K={best.shots} {score_text(best.value)} (t{best.number:03d})"
            )
        return "  ".join([*parts, *self._times()])

    def _ended(self, what: str = "") -> str:
        ended: Counter[State] = Counter()
        for row in self._rows.values():
            ended.update(row.ended)
        total = sum(row.total for row in self._rows.values())
        told = [f"{ended[state]} {word}" for state, word in _WORDS.items() if ended[state]]
        text = f"{ended.total()}/{total} {what}".strip()
        return text + (f" ({', '.join(told)})" if told else "")

    def _times(self) -> list[str]:
        """Rate, time left by that rate or by the budget, and what is left of the budget."""
        parts, ends = [], []
        left = sum(max(0, row.total - row.done) for row in self._rows.values())
        if self._run_here and self.elapsed > 0:
            parts.append(f"{60 * self._run_here / self.elapsed:.1f} trials/min")
            ends.append(left * self.elapsed / self._run_here)
        if self._minutes:
            ends.append(max(0.0, 60 * (self._minutes - self._spent_minutes) - self.elapsed))
        if left and ends:
            parts.append(f"about {duration(min(ends))} left")
        if left and self._minutes:
            parts.append(f"budget {duration(60 * self._minutes)}")
        return parts

    def _shown(self, room: int) -> list[str]:
        """Names of the rows that fit, in the order of the table."""
        if len(self._rows) <= room:
            return list(self._rows)

        def rank(study: str) -> tuple[bool, int]:
            return bool(self._rows[study].running), self._rows[study].touched

        # a line less: one says how many are left out
        first = set(sorted(self._rows, key=rank, reverse=True)[: max(1, room - 1)])
        return [study for study in self._rows if study in first]

    def _row(self, trial: Suggestion) -> _Row:
        row = self._rows[trial.study]
        self._touches += 1
        row.touched = self._touches
        return row

    def _improve(self, study: str, best: _Best) -> None:
        """Keep the better one; of equals the first."""
        row = self._rows[study]
        if row.best is None or best.value > row.best.value:
            row.best = best
            leader = self._rows[self._best_row].best if self._best_row else None
            if leader is None or best.value > leader.value:
                self._best_row = study


def _running(running: Mapping[int, int]) -> str:
    """The first trial that runs, with its epoch, and how many others do."""
    if not running:
        return ""
    number = min(running)
    others = f" +{len(running) - 1}" if len(running) > 1 else ""
    return f"t{number:03d} epoch {running[number]}{others}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"


def _best(best: _Best | None, *, number: bool, shots: bool) -> str:
    """The best score, and which trial had it and at which K, where these are to be told."""
    if best is None:
        return ""
    told = [f"t{best.number:03d}"] * number + [f"K={best.shots}"] * shots
    return score_text(best.value) + (f" ({', '.join(told)})" if told else "")


def _setting(best: _Best | None) -> str:
    """Hyperparameters, those that matter most first."""
    if best is None:
        return ""
    names = sorted(best.params, key=lambda n: _MAIN.index(n) if n in _MAIN else len(_MAIN))
    return " ".join(f"{name}={_value(best.params[name])}" for name in names)


def _value(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
