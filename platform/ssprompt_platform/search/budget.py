"""What the search may use and has used, over all parts of a study."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import optuna
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial, TrialState

from ssprompt_platform.config.schema import BudgetConfig
from ssprompt_platform.storage import Place, read_json, write_json

_SAVED_EVERY_SECONDS = 1.0
"""A file that is replaced waits for the disk, an object for the bucket."""


class Budget:
    """Minutes and GPU-hours of a search; what is used is kept on disk, for the next part of it.

    Args:
        config: The ``search.budget`` group.
        path: Where it is kept.
        gpus: GPUs that a trial holds.
    """

    def __init__(self, config: BudgetConfig, path: Place, gpus: float) -> None:
        self._config, self._path, self._gpus = config, path, gpus
        used = read_json(path) if path.is_file() else {}
        self._minutes = float(used.get("minutes", 0.0))
        self._seconds = float(used.get("trial_seconds", 0.0))
        self._gpu_hours = float(used.get("gpu_hours", 0.0))
        self._ended_by: dict[str, str] = {}
        self._begun, self._saved = time.monotonic(), -math.inf

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of the search so far."""
        return self._minutes + (time.monotonic() - self._begun) / 60

    def used(self, seconds: float) -> None:
        """Count a trial that ended, and keep the sum, where trials are short at times only."""
        self._seconds += seconds
        self._gpu_hours += seconds * self._gpus / 3600
        if time.monotonic() - self._saved >= _SAVED_EVERY_SECONDS:
            self.save()

    def ended(self, study: str, reason: str) -> None:
        """Note why a study proposes nothing more."""
        if study not in self._ended_by:
            self._ended_by[study] = reason
            self.save()

    def exhausted(self) -> str | None:
        """Which end is reached, or None."""
        config = self._config
        if config.minutes and self.minutes >= config.minutes:
            return f"search.budget.minutes: {config.minutes:g} minutes are used"
        if config.gpu_hours and self._gpu_hours >= config.gpu_hours:
            return f"search.budget.gpu_hours: {config.gpu_hours:g} GPU-hours are used"
        return None

    def save(self) -> None:
        """Write what is used."""
        self._saved = time.monotonic()
        write_json(
            self._path,
            {
                "minutes": round(self.minutes, 4),
                "gpu_hours": self._gpu_hours,
                "trial_seconds": self._seconds,
                "ended_by": self._ended_by,
            },
        )


def expected_gain(trials: Sequence[FrozenTrial], seed: int) -> float:
    """How far the best of some trials may be below the best of the space, in mIoU.

    The bound is the regret bound of Makarova et al., Automatic Termination for Hyperparameter
    Optimization (2022), from a Gaussian process over the completed trials; it is wide for few.
    """
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = RegretBoundEvaluator(top_trials_ratio=1.0, min_n_trials=1, seed=seed)
    return float(evaluator.evaluate(complete, StudyDirection.MAXIMIZE))
