"""When a trial is beaten: successive halving over epochs, and racing over support draws.

A trial is told what it has to reach before it starts, from the trials that had ended when it was
proposed. So nothing waits, no decision depends on timing, and after a kill the same history gives
the same decisions again: the rungs are the intermediate values in Optuna's storage.
"""

from __future__ import annotations

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


def rules(config: PruningConfig, epochs: int, before: Sequence[FrozenTrial]) -> Rules:
    """What a trial must reach, given the trials of its study that ended before it was proposed.

    Args:
        config: The ``search.pruning`` group.
        epochs: Epochs of the trial's fits.
        before: Those trials.
    """
    if config.over == "epochs":
        return Rules(
            {rung: _least(config.factor, rung, before) for rung in rungs(config, epochs)},
        )
    if config.over == "draws":
        complete = [
            t for t in before if t.state is TrialState.COMPLETE and "scores" in t.user_attrs
        ]
        if complete:
            best = max(complete, key=lambda t: (t.values[0], -t.number))
            return Rules({}, tuple(best.user_attrs["scores"]), config.p)
    return NO_RULES


def rungs(config: PruningConfig, epochs: int) -> list[int]:
    """Epochs at which a fit of so many epochs is judged: each ``factor`` times the last."""
    found, epoch = [], config.first_epoch
    while epoch < epochs:
        found.append(epoch)
        epoch *= config.factor
    return found


def _least(factor: int, rung: int, before: Sequence[FrozenTrial]) -> float | None:
    """The value to reach: the best 1 in ``factor`` of those that got there, this trial included."""
    # a failed trial is no rival, and a repeated one is the same rival again
    rivals = [
        t for t in before if t.state is not TrialState.FAIL and "duplicate_of" not in t.user_attrs
    ]
    values = [t.intermediate_values[rung] for t in rivals if rung in t.intermediate_values]
    places = max(1, (len(values) + 1) // factor)
    if len(values) < places:
        return None
    return sorted(values, reverse=True)[places - 1]
