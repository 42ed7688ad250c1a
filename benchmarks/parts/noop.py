"""A study whose trials do nothing, so that what it costs is the platform."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssprompt_core.data.support import SupportDraw
from ssprompt_core.train.state import TrainState
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import FitKey, Fold, Group, StudyPlan
from ssprompt_platform.search.budget import Budget
from ssprompt_platform.search.grouped import GroupedSearch
from ssprompt_platform.search.trial import OnEpoch, TrialTask
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking import Target, Tracker

EPOCHS = 3
METHOD = "ssprompt"


@dataclass(frozen=True)
class NoWork:
    """Trials of a few epochs that compute nothing and keep a state after each.

    Attributes:
        pause: Seconds that an epoch sleeps.
    """

    pause: float = 0.0

    @property
    def draws(self) -> int:
        return 1

    def folds(self, draw: int, shots: int) -> int:
        return 1

    def fit(
        self, task: TrialTask, draw: int, fold: int, on_epoch: OnEpoch, state: TrainState | None
    ) -> float:
        for epoch in range(1, task.epochs + 1):
            time.sleep(self.pause)
            on_epoch({"epoch": epoch, "loss": 1 / epoch}, TrainState(x=torch.zeros(1000)), None)
        return score(task.hyperparameters)

    def confusion(self, fitted: float, task: TrialTask, draw: int, fold: int) -> NDArray[np.int64]:
        right = round(fitted * 10**9)
        return np.array([[right, 10**9 - right], [0, 0]], np.int64)


def score(setting: Mapping[str, Any]) -> float:
    """A smooth mIoU with its top inside the space."""
    return float(0.7 / (1 + np.log(setting["lr_embedding"] / 0.1) ** 2))


@dataclass
class Times:
    """An observer that notes when trials ended."""

    at: list[float] = field(default_factory=list)

    def started(self, trial: Any) -> None:
        """Nothing is noted."""

    def reported(self, trial: Any, metrics: Mapping[str, Any]) -> None:
        """Nothing is noted."""

    def ended(self, *_: Any) -> None:
        """A trial ended."""
        self.at.append(time.perf_counter())

    def steady(self) -> float:
        """Seconds a trial, without the first quarter, in which actors start."""
        first = len(self.at) // 4
        return (self.at[-1] - self.at[first]) / (len(self.at) - 1 - first)


def config(trials: int, searches: int) -> Config:
    """A study of so many trials over so many values of K."""
    made = Config()
    made.study.methods, made.study.shots = [METHOD], list(range(1, searches + 1))
    made.search.trials, made.train.epochs = trials // searches, EPOCHS
    return made


def searcher(folder: StudyFolder, made: Config) -> GroupedSearch:
    """The searcher of such a study."""
    folder.path.mkdir(parents=True, exist_ok=True)
    shots = made.study.shots
    groups = tuple(Group(METHOD, k) for k in shots)
    plan = StudyPlan(
        draws=(SupportDraw(0, dict.fromkeys(shots, ("a",)), {}),),
        groups=groups,
        searched=groups,
        fits=tuple(FitKey(METHOD, k, 0) for k in shots),
        folds={(0, k): (Fold(("a",), ("b",)),) for k in shots},
        labelled={k: 3.0 * k for k in shots},
        test_ids=("t",),
    )
    return GroupedSearch(plan, made, folder, Budget(made.search.budget, folder.spent, 0.0))


@contextmanager
def tracked(folder: StudyFolder) -> Iterator[Tracker]:
    """A tracker that tells a sqlite MLflow beside the study; the block's end does not wait."""
    root = Path(folder.work)
    root.mkdir(parents=True, exist_ok=True)
    target = Target(f"sqlite:///{root}/mlflow.db", "bench", (root / "files").as_uri(), "")
    tracker = Tracker(folder, "bench", target, name="bench", params={})
    try:
        yield tracker
    finally:
        tracker.close(120.0)
