"""NSGA-II over a history of which only the last generations are kept."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, TrialState

_GENERATION = NSGAIISampler._get_generation_key()


class Parents:
    """Whose children the trials of each generation are.

    They follow from all generations before. Optuna keeps them in the study, which a search that
    goes on would not have; here each generation's are chosen once, from trials that have all ended.

    Args:
        population: Trials of a generation.
    """

    def __init__(self, population: int) -> None:
        self._choose = NSGAIISampler(
            population_size=population
        )._elite_population_selection_strategy
        self._of: dict[int, list[FrozenTrial]] = {}

    def of(
        self, study: optuna.Study, generation: int, before: list[FrozenTrial]
    ) -> list[FrozenTrial]:
        """The parents of a generation, given the trials of the one before it."""
        if generation == 0:
            return []
        if generation not in self._of:
            older = self.of(study, generation - 1, [])
            self._of[generation] = self._choose(study, before + older)
            # these are the only ones that the next generation's are chosen from
            self._of = {g: found for g, found in self._of.items() if g >= generation - 1}
        return self._of[generation]

    def recall(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """Choose the parents of all generations that these trials have begun."""
        populations: dict[int, list[FrozenTrial]] = {}
        for trial in trials:
            if trial.state is TrialState.COMPLETE:
                populations.setdefault(_generation(trial), []).append(trial)
        for generation in range(1, latest(trials) + 1):
            self.of(study, generation, populations.get(generation - 1, []))


class Evolution(NSGAIISampler):
    """NSGA-II with parents that are kept outside of the study.

    Args:
        parents: Of the generations so far.
        population: Trials of a generation.
        seed: Of this proposal.
        first: Whether the proposal is the first one of its batch.
    """

    def __init__(self, parents: Parents, population: int, seed: int, first: bool) -> None:
        super().__init__(population_size=population, seed=seed)
        self._parents, self._first = parents, first

    @classmethod
    def _get_generation_key(cls) -> str:
        # as Optuna's own, which studies that were begun before have
        return _GENERATION

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """As Optuna's, which would also keep them in the study."""
        before = self.get_population(study, generation - 1) if generation else []
        found = self._parents.of(study, generation, before)
        # Optuna has them by rank when it has just chosen them, and by number from then on
        return found if self._first else sorted(found, key=lambda trial: trial.number)


def latest(trials: Sequence[FrozenTrial]) -> int:
    """Number of the last generation that has a completed trial."""
    return max((_generation(t) for t in trials if t.state is TrialState.COMPLETE), default=0)


def last_generations(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of the last two generations: what further proposals are made from."""
    first = latest(trials) - 1
    return [trial for trial in trials if _generation(trial) >= first]


def _generation(trial: FrozenTrial) -> int:
    return int(trial.system_attrs.get(_GENERATION, -1))
