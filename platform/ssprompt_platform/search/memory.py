"""What samplers learn from: the history of one Optuna study, in memory and of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ssprompt_platform.search.evolution import Parents, last_generations

LEARNED_FROM: Mapping[str, int] = {"gp": 200}
"""Trials of a method and K that a proposal of a sampler may look at, where it is not ``MOST``."""
MOST = 1000
"""The time of a proposal grows with the trials that it looks at (of ``gp`` with their cube)."""


def learned_from(sampler: str) -> int:
    """How many trials a proposal looks at."""
    return LEARNED_FROM.get(sampler, MOST)


class Memory:
    """A copy of a study's history that a sampler can be asked on.

    Up to ``most`` trials it holds all of them. Beyond, it holds a quarter of that number of the
    best ones, and the latest: what is old and not good says least about where to go on. Which
    these are depends on the history alone, so a search that was killed remembers the same.

    Args:
        directions: Of the objectives; where there are two, the second is the price of a K.
        most: Trials to hold at most.
        parents: Of the generations, where the sampler evolves them: it needs the last ones.
    """

    def __init__(
        self, directions: Sequence[StudyDirection], most: int, parents: Parents | None = None
    ) -> None:
        self._directions, self._most, self._parents = list(directions), most, parents
        self._study: optuna.Study | None = None
        self._begin = 0
        self._ids: dict[int, int] = {}
        self._shared = IntersectionSearchSpace(include_pruned=True)

    def begin(self, trials: Sequence[FrozenTrial], batch: int) -> None:
        """Prepare for the proposals of a batch, which know of all trials before it.

        Args:
            trials: All trials so far, by number; those before the batch have ended.
            batch: Number of its first trial.
        """
        step = max(1, self._most // 4)
        begin = batch // step * step if batch > self._most else 0
        if self._study is not None and begin == self._begin:
            return
        first = self._study is None
        kept = [*self._kept(trials[:begin], self._most - step), *trials[begin:]]
        self._study = optuna.create_study(directions=self._directions)
        self._study.add_trials(kept)
        if first and self._parents is not None:
            self._parents.recall(self._study, trials)
        self._begin = begin
        self._shared = IntersectionSearchSpace(include_pruned=True)
        self._ids = {trial.number: place for place, trial in enumerate(kept)}

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler) -> optuna.Trial:
        """Begin a proposal of a sampler that is new for it."""
        study = self._of()
        if isinstance(sampler, optuna.samplers.TPESampler):
            # each sampler would compare the spaces of all trials anew
            sampler._search_space = self._shared
        study.sampler = sampler
        trial = study.ask()
        self._ids[number] = trial.number
        return trial

    def enqueue(self, setting: Mapping[str, Any]) -> None:
        """Let the next proposal be this setting."""
        self._of().enqueue_trial(dict(setting))

    def asked(self, number: int) -> FrozenTrial:
        """A trial as it is remembered."""
        study = self._of()
        return study._storage.get_trial(self._id(number))

    def end(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        rungs: Mapping[int, float],
    ) -> FrozenTrial:
        """Learn how a trial ended; returns it with the values that it has then."""
        study, trial_id = self._of(), self._id(number)
        for step, value in rungs.items():
            study._storage.set_trial_intermediate_value(trial_id, step, value)
        study.tell(self._ids[number], state=state, values=values)
        return study._storage.get_trial(trial_id)

    def _id(self, number: int) -> int:
        study = self._of()
        return study._storage.get_trial_id_from_study_id_trial_number(
            study._study_id, self._ids[number]
        )

    def _of(self) -> optuna.Study:
        assert self._study is not None, "begin comes first"
        return self._study

    def _kept(self, trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
        """Those to remember of trials that are many."""
        if self._parents is not None:
            return last_generations(trials)
        best = set(_best_numbers(trials, self._most // 4))
        latest = [trial for trial in reversed(trials) if trial.number not in best]
        latest = latest[: most - len(best)]
        return sorted(
            [*(trials[number] for number in best), *latest], key=lambda trial: trial.number
        )


def best_and_latest(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """At most so many trials of one objective: the better half of them the best, and the latest."""
    if len(trials) <= most:
        return list(trials)
    ordered = sorted(trials, key=lambda trial: (-trial.values[0], trial.number))
    latest = sorted(ordered[most // 2 :], key=lambda trial: -trial.number)[: most - most // 2]
    return sorted([*ordered[: most // 2], *latest], key=lambda trial: trial.number)


def _best_numbers(trials: Sequence[FrozenTrial], most: int) -> list[int]:
    """The best completed ones; of several prices as many of each, so that the front is kept."""
    of_price: dict[tuple[float, ...], list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            of_price.setdefault(tuple(trial.values[1:]), []).append(trial)
    each = most // max(1, len(of_price))
    return [
        trial.number
        for found in of_price.values()
        for trial in sorted(found, key=lambda trial: (-trial.values[0], trial.number))[:each]
    ]
