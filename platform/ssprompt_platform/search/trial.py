"""One search trial: fit and score a setting draw by draw; goes on where a kill left it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.train.state import TrainState
from ssprompt_platform import attempts, checkpoints
from ssprompt_platform.causes import DivergedError, cause_of
from ssprompt_platform.plan import Group
from ssprompt_platform.scoring import miou_of
from ssprompt_platform.search.pruning import Rules
from ssprompt_platform.search.records import State
from ssprompt_platform.storage import Place, StorageError

Report = Callable[[dict[str, Any]], None]
"""Takes the values of an epoch, or, last of all, those of the trial."""
OnEpoch = Callable[[Mapping[str, float], TrainState | None, Any], None]
"""Takes ``epoch`` (of this fit) and ``loss``, a state if one is to be kept, and what is fitted."""


@dataclass(frozen=True)
class TrialTask:
    """What a trial is to do, as the searcher tells it.

    Attributes:
        key: Identity of the trial in its study.
        group: Method and K.
        hyperparameters: The setting.
        epochs: Epochs of each of its fits.
        rules: What it must reach to go on.
    """

    key: str
    group: Group
    hyperparameters: Mapping[str, Any]
    epochs: int
    rules: Rules

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrialTask:
        """Read the searcher's dictionary."""
        return cls(
            key=config["key"],
            group=Group(config["method"], config["shots"]),
            hyperparameters=config["hyperparameters"],
            epochs=config["epochs"],
            rules=Rules.from_dict(config["rules"]),
        )


class Work(Protocol):
    """What trials are made of: fits on folds of support draws, and their scores."""

    @property
    def draws(self) -> int:
        """Support draws that a trial is scored on."""

    def folds(self, draw: int, shots: int) -> int:
        """Fits that the score of a draw is pooled over."""

    def fit(
        self, task: TrialTask, draw: int, fold: int, on_epoch: OnEpoch, state: TrainState | None
    ) -> Any:
        """Fit one fold, from a state where there is one; what it returns can be scored."""

    def confusion(self, fitted: Any, task: TrialTask, draw: int, fold: int) -> NDArray[np.int64]:
        """Confusion matrix ``[C, C]`` over the images that the fold is scored on."""


@dataclass(frozen=True)
class TrialPlace:
    """Where a trial keeps its state.

    Attributes:
        folder: The trial's own folder.
        session: Identity of the driver's process.
        alone: Whether one worker does the whole trial. Workers that share one wait for each other:
            a fault of one is raised, so that all of them stop.
        writes: Whether this worker writes; of several that share a trial one does.
    """

    folder: Place
    session: str
    alone: bool = True
    writes: bool = True


@dataclass
class _Progress:
    """What a trial has done so far, as its checkpoint keeps it."""

    scores: list[float] = field(default_factory=list)
    confusion: list[list[int]] | None = None
    folds: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    rungs: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    end: dict[str, Any] | None = None


class _BeatenError(Exception):
    """Others did better at this point; the trial ends."""


def run_trial(work: Work, task: TrialTask, place: TrialPlace, report: Report) -> None:
    """Run a trial to its end, from its checkpoint where there is one.

    A fault of the trial is its result and raises nothing, where one worker does it alone.

    The last report carries ``end`` (``complete``, ``pruned`` or ``failed``), ``miou``, ``scores``
    by draw, ``rungs`` (step and value pairs), ``history`` by epoch, ``seconds`` and, where it
    failed, ``cause``. A trial that had ended before reports the same again.
    """
    trial = _Trial(work, task, place, report)
    report(trial.run())


def give_up(work: Work, task: TrialTask, place: TrialPlace, cause: str) -> dict[str, Any]:
    """The last report of a trial that failed where its own code could not tell."""
    trial = _Trial(work, task, place, lambda values: None)
    return trial.fail(cause)


def last_report(work: Work, task: TrialTask, place: TrialPlace) -> dict[str, Any]:
    """The last report of a trial that has ended, from what it kept."""
    return _Trial(work, task, place, lambda values: None).last()


class _Trial:
    def __init__(self, work: Work, task: TrialTask, place: TrialPlace, report: Report) -> None:
        self._work, self._task, self._place, self._send = work, task, place, report
        kept = checkpoints.load(place.folder)
        record, self._state = kept if kept is not None else ({}, None)
        self._progress = _Progress(**record)
        self._before, self._begun = self._progress.seconds, time.monotonic()

    def run(self) -> dict[str, Any]:
        progress = self._progress
        if progress.end is None:
            place = self._place
            if place.alone and attempts.count(place.folder, place.session) > attempts.MOST:
                return self.fail(_lost(progress))
            self._try()
        return self.last()

    def fail(self, cause: str) -> dict[str, Any]:
        self._end("failed", None, cause)
        return self.last()

    def last(self) -> dict[str, Any]:
        progress = self._progress
        assert progress.end is not None
        return {
            **progress.end,
            "scores": progress.scores,
            "rungs": progress.rungs,
            "history": progress.history,
            "seconds": progress.seconds,
        }

    def _try(self) -> None:
        progress = self._progress
        try:
            for draw in range(len(progress.scores), self._work.draws):
                self._run_draw(draw)
                mean = float(np.mean(progress.scores))
                if self._task.rules.rival:
                    progress.rungs.append((len(progress.scores), mean))
                if self._task.rules.beaten_over(progress.scores):
                    raise _BeatenError
                if draw + 1 < self._work.draws:  # the end of the trial is kept at once
                    self._save(None)
        except _BeatenError:
            self._end("pruned", progress.rungs[-1][1], None)
        except StorageError:
            raise  # no fault of the trial: it goes on when the storage is back
        except Exception as error:
            if not self._place.alone:
                raise
            self._end("failed", None, cause_of(error))
        else:
            self._end("complete", float(np.mean(progress.scores)), None)

    def _run_draw(self, draw: int) -> None:
        progress, shots = self._progress, self._task.group.shots
        for fold in range(progress.folds, self._work.folds(draw, shots)):
            state, self._state = self._state, None
            fitted = self._work.fit(self._task, draw, fold, self._on_epoch, state)
            confusion_CC = self._work.confusion(fitted, self._task, draw, fold)
            if progress.confusion is not None:
                confusion_CC = confusion_CC + np.asarray(progress.confusion, np.int64)
            progress.confusion, progress.folds = confusion_CC.tolist(), fold + 1
            if fold + 1 < self._work.folds(draw, shots):
                self._save(None)
        assert progress.confusion is not None
        score = miou_of(np.asarray(progress.confusion, np.int64))
        if not math.isfinite(score):
            raise ValueError("no pixel of the selection images belongs to a class")
        progress.scores.append(score)
        progress.confusion, progress.folds = None, 0

    def _on_epoch(
        self, metrics: Mapping[str, float], reached: TrainState | None, fitting: Any
    ) -> None:
        progress, task = self._progress, self._task
        epoch, loss = int(metrics["epoch"]), float(metrics["loss"])
        if not math.isfinite(loss):
            raise DivergedError(epoch, loss)
        done = [self._work.folds(draw, task.group.shots) for draw in range(len(progress.scores))]
        fits = sum(done) + progress.folds
        entry = {"epoch": fits * task.epochs + epoch, "loss": loss}
        progress.history.append(entry)
        if fits == 0 and epoch in task.rules.rungs:
            entry["value"] = miou_of(self._work.confusion(fitting, task, 0, 0))
            progress.rungs.append((epoch, entry["value"]))
            if task.rules.beaten_at(epoch, entry["value"]):
                raise _BeatenError
        if reached is not None:
            self._save(reached)
        self._send(entry)

    def _end(self, state: State, value: float | None, cause: str | None) -> None:
        self._progress.end = {"end": state, "miou": value, "cause": cause}
        self._save(None)

    def _save(self, state: TrainState | None) -> None:
        self._progress.seconds = self._before + time.monotonic() - self._begun
        if self._place.writes:
            checkpoints.save(self._place.folder, vars(self._progress), state)


def _lost(progress: _Progress) -> str:
    epoch = int(progress.history[-1]["epoch"]) if progress.history else 0
    return (
        f"its worker died {attempts.MOST} times after epoch {epoch} without getting on: killed by "
        "the system, out of memory?"
    )
