"""When a trial is beaten: successive halving over epochs, and racing over support draws.

A trial is told what it has to reach before it starts, from the trials that had ended when it was
proposed. So nothing waits, no decision depends on timing, and after a kill the same history gives
the same decisions again: the rungs are the intermediate values in Optuna's storage.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from ssprompt_platform.config.schema import PruningConfig


@dataclass(frozen=True)
class Rules:
    """What a trial must reach to go on.

    Attributes:
        rungs: Epoch of the first fit -> least mIoU there; None where no trial got there before.
        rival: mIoU of the best trial in each support draw; empty without a race.
        p: A trial is out where it is worse than the rival with this p of a one-sided paired t-test.
    """

    rungs: Mapping[int, float | None]
    rival: tuple[float, ...] = ()
    p: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The rules as JSON."""
        return {
            "rungs": {str(epoch): least for epoch, least in self.rungs.items()},
            "rival": list(self.rival),
            "p": self.p,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Rules:
        """Read what :meth:`to_dict` made."""
        rungs = {int(epoch): least for epoch, least in record["rungs"].items()}
        return cls(rungs, tuple(record["rival"]), float(record["p"]))

    def beaten_at(self, epoch: int, value: float) -> bool:
        """Whether a value at a rung is too low to go on; NaN is."""
        least = self.rungs[epoch]
        return least is not None and not value >= least

    def beaten_over(self, scores: Sequence[float]) -> bool:
        """Whether the draws so far are worse than the rival's same draws, beyond chance.

        Two draws at least, and the last one of all decides nothing: the trial is complete then.
        """
        number = len(scores)
        if number < 2 or number >= len(self.rival):
            return False
        differences = np.asarray(scores) - np.asarray(self.rival[:number])
        if np.ptp(differences) == 0.0:
            return bool(differences[0] < 0)
        result = stats.ttest_1samp(differences, 0.0, alternative="less")
        return bool(result.pvalue < self.p)


NO_RULES = Rules({})


class Judged:
    """What ended trials of a study ask of later ones; a further trial costs no look at all others.

    Args:
        config: The ``search.pruning`` group.
    """

    def __init__(self, config: PruningConfig) -> None:
        self._config = config
        # of each rung the values there, from the least on
        self._values: dict[int, list[float]] = {}
        self._best: FrozenTrial | None = None

    def add(self, trial: FrozenTrial) -> None:
        """Count a trial that has ended; they are counted by their numbers."""
        attributes = trial.user_attrs
        # a failed trial is no rival, and a repeated one is the same rival again
        if trial.state is not TrialState.FAIL and "duplicate_of" not in attributes:
            for rung, value in trial.intermediate_values.items():
                # what is no number can be ordered as the least one only
                known = -math.inf if math.isnan(value) else value
                bisect.insort(self._values.setdefault(rung, []), known)
        if trial.state is TrialState.COMPLETE and "scores" in attributes:
            best = self._best
            if best is None or trial.values[0] > best.values[0]:
                self._best = trial

    def rules(self, epochs: int) -> Rules:
        """What a trial whose fits have so many epochs must reach to go on."""
        config = self._config
        if config.over == "epochs":
            return Rules({rung: self._least(rung) for rung in rungs(config, epochs)})
        if config.over == "draws" and self._best is not None:
            return Rules({}, tuple(self._best.user_attrs["scores"]), config.p)
        return NO_RULES

    def _least(self, rung: int) -> float | None:
        """What to reach: the best 1 in ``factor`` of those that got there, this trial included."""
        values = self._values.get(rung, [])
        places = max(1, (len(values) + 1) // self._config.factor)
        least = values[-places] if len(values) >= places else -math.inf
        return least if least > -math.inf else None


def rules(config: PruningConfig, epochs: int, before: Sequence[FrozenTrial]) -> Rules:
    """What a trial must reach, given the trials of its study that ended before it was proposed.

    Args:
        config: The ``search.pruning`` group.
        epochs: Epochs of the trial's fits.
        before: Those trials.
    """
    judged = Judged(config)
    for trial in before:
        judged.add(trial)
    return judged.rules(epochs)


def rungs(config: PruningConfig, epochs: int) -> list[int]:
    """Epochs at which a fit of so many epochs is judged: each ``factor`` times the last."""
    found, epoch = [], config.first_epoch
    while epoch < epochs:
        found.append(epoch)
        epoch *= config.factor
    return found
