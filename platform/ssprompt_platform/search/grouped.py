"""One Ray Tune run over the whole search: a searcher that owns one Optuna study for each part."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import optuna
from ray.tune.search import Searcher

from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import Group, StudyPlan
from ssprompt_platform.search.budget import Budget
from ssprompt_platform.search.database import settle, writing_storage
from ssprompt_platform.search.proposals import Proposals, Suggestion
from ssprompt_platform.search.records import State
from ssprompt_platform.storage import StudyFolder

__all__ = ["GroupedSearch", "Observer", "Suggestion"]

_WAITS = "waits for a smaller K that lost its workers"


class Observer(Protocol):
    """Who wants to know about trials; called in the driver."""

    def started(self, trial: Suggestion) -> None:
        """A trial begins, or goes on where a kill interrupted it."""

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch, or, where ``metrics`` has ``end``, itself."""

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        """A trial ended; a ``duplicate`` was never started."""


class GroupedSearch(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Feeds the Optuna studies of a search in turn to one Tuner.

    A study proposes ``search.together`` trials at once and the next ones when all of these have
    ended, so the history that a proposal is made from never depends on timing; the studies run
    side by side. With ``search.warm_start`` a method's K follow one another.

    Args:
        plan: What is searched, and what each K costs.
        config: The whole configuration.
        folder: Of the study.
        budget: What the search may use.
        changed: Called after trials were proposed, and after one ended: the database has changed.
    """

    def __init__(
        self,
        plan: StudyPlan,
        config: Config,
        folder: StudyFolder,
        budget: Budget,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        # without a metric: Tune would insist on it in every epoch's report
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._budget, self._changed = config, budget, changed
        self._observers: tuple[Observer, ...] = ()
        folder.optuna.parent.mkdir(parents=True, exist_ok=True)
        self._storage = storage = writing_storage(folder.optuna)
        self._parts = {
            name: Proposals(name, groups, config, storage, folder.study_id, plan.labelled)
            for name, groups in _parts(plan.searched, config.study.mode).items()
        }
        self._waiting = {n: deque(part.unfinished()) for n, part in self._parts.items()}
        self._under_way: dict[str, Suggestion] = {}
        self._lost: list[Suggestion] = []
        self._ended: dict[str, str] = {}
        self._warmed: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside the run; the history that counts is in the database
        return {}

    def close(self) -> None:
        """Leave the database as one file."""
        settle(self._storage)

    def observe(self, *observers: Observer) -> None:
        """Tell these, in this order, and before Optuna: what they keep is there for certain."""
        self._observers = observers

    def totals(self) -> dict[str, int]:
        """Trials of each Optuna study, those of earlier parts of the search included."""
        return {n: p.remaining() + len(p.trials) for n, p in self._parts.items()}

    def remaining(self) -> int:
        """Trials that may still run."""
        return sum(
            part.remaining() + len(self._waiting[name]) for name, part in self._parts.items()
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial of the study that is furthest behind and has one that can run."""
        for name in sorted(self._parts, key=self._left, reverse=True):
            trial = self._next(name)
            if trial is not None:
                self._under_way[trial_id] = trial
                for observer in self._observers:
                    observer.started(trial)
                return self._tune_config(trial)
        if self._under_way or len(self._ended) < len(self._parts):
            return None
        self._budget.save()
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what an epoch reported."""
        trial = self._under_way.get(trial_id)
        if trial is not None:
            for observer in self._observers:
                observer.reported(trial, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended.

        Without a result that says so the trial was interrupted, with its worker or with the study:
        it stays open, and goes on when the study does.
        """
        trial = self._under_way.get(trial_id)
        if trial is not None and error:
            # Ray gave it up; the other studies go on, this one when the study does
            self._lost.append(self._under_way.pop(trial_id))
            self._ended[trial.study] = f"{trial.key} lost its workers"
        if trial is None or error or result is None or "end" not in result:
            return
        del self._under_way[trial_id]
        state: State = result["end"]
        value: float | None = result["miou"]
        cause: str | None = result["cause"]
        if value is not None and not math.isfinite(value):
            state, value, cause = "failed", None, f"its score is {value}"
        for observer in self._observers:
            observer.reported(trial, result)
            observer.ended(trial, state, value, cause)
        self._parts[trial.study].end(
            trial,
            state,
            value,
            cause=cause,
            scores=result["scores"],
            rungs={int(step): rung for step, rung in result["rungs"]},
            seconds=float(result["seconds"]),
        )
        self._budget.used(float(result["seconds"]))
        self._changed()

    def interrupted(self) -> list[str]:
        """Keys of trials that were started here and have no end."""
        return sorted(trial.key for trial in [*self._lost, *self._under_way.values()])

    def best(self) -> dict[Group, dict[str, Any]]:
        """The best setting of every group that has one.

        A group that was given no time has the defaults; one whose trials all failed has none. In
        pareto mode a K has one only where trials chose it.
        """
        chosen: dict[Group, dict[str, Any]] = {}
        for part in self._parts.values():
            found = part.best()
            if not found and not part.failed():
                found = {Group(part.method, k): part.default for k in part.shots}
            chosen |= found
        return chosen

    def _left(self, name: str) -> int:
        return self._parts[name].remaining() + len(self._waiting[name])

    def _next(self, name: str) -> Suggestion | None:
        """The next trial of a study that must be run; those that are known already are told."""
        part, waiting = self._parts[name], self._waiting[name]
        while True:
            if name in self._ended or (not waiting and not self._refill(name)):
                return None
            trial = next((t for t in waiting if self._twin_state(t) != "running"), None)
            if trial is None:
                return None
            waiting.remove(trial)
            twin = part.twin(trial)
            if twin is None:
                return trial
            state, value = part.repeat(trial, twin)
            for observer in self._observers:
                observer.ended(trial, "duplicate", value if state == "complete" else None, None)

    def _refill(self, name: str) -> bool:
        """Let a study propose, if it may: nothing of it is under way, and it has not ended."""
        part = self._parts[name]
        if name in self._ended or any(t.study == name for t in self._under_way.values()):
            return False
        if not self._warm(part):
            return False
        reason = part.exhausted() or self._budget.exhausted()
        if reason is not None:
            self._ended[name] = reason
            self._budget.ended(name, reason)
            return False
        together = min(self._config.search.together, part.remaining())
        self._waiting[name].extend(part.propose(together))
        self._changed()
        return True

    def _warm(self, part: Proposals) -> bool:
        """Hand on the best setting of the next smaller K; False while that one still searches."""
        if not self._config.search.warm_start or part.name in self._warmed:
            return True
        smaller = [
            other
            for other in self._parts.values()
            if other.method == part.method and other.shots < part.shots
        ]
        if smaller:
            nearest = max(smaller, key=lambda other: other.shots)
            if any(trial.study == nearest.name for trial in self._lost) or (
                self._ended.get(nearest.name) == _WAITS
            ):
                # its best is not known in this part of the study
                self._ended[part.name] = _WAITS
                return False
            if nearest.name not in self._ended:
                return False
            for setting in nearest.best().values():
                part.enqueue(setting)
        self._warmed.add(part.name)
        return True

    def _twin_state(self, trial: Suggestion) -> str:
        twin = self._parts[trial.study].twin(trial)
        return "running" if twin is not None and not twin.state.is_finished() else "ended"

    def _tune_config(self, trial: Suggestion) -> dict[str, Any]:
        train, search = self._config.train, self._config.search
        epochs = trial.hyperparameters.get("epochs") or search.epochs or train.epochs
        return {
            "key": trial.key,
            "method": trial.method,
            "shots": trial.shots,
            "hyperparameters": trial.hyperparameters,
            "epochs": epochs,
            "rules": self._parts[trial.study].rules(trial, epochs).to_dict(),
        }


def _parts(searched: Sequence[Group], mode: str) -> dict[str, list[Group]]:
    """What has an Optuna study of its own: a method at a K, or a method."""
    parts: dict[str, list[Group]] = {}
    for group in searched:
        name = group.name if mode == "per_shot" else f"{group.method}-pareto"
        parts.setdefault(name, []).append(group)
    return parts
