"""One Ray Tune run over all (method, K): a searcher that owns one Optuna study for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ssprompt_platform.config.schema import SearchConfig
from ssprompt_platform.plan import Group, derive_seed
from ssprompt_platform.search.space import default_setting, search_space

METRIC = "miou"


@dataclass(frozen=True)
class Suggestion:
    """A trial: which group it belongs to, its number there and its hyperparameters."""

    group: Group
    number: int
    hyperparameters: dict[str, Any]

    @property
    def key(self) -> str:
        """Identity of the trial within its study, the same after every restart."""
        return f"{self.group.name}-t{self.number:03d}"


class Observer(Protocol):
    """Who wants to know about trials; called in the driver."""

    def started(self, trial: Suggestion) -> None:
        """A trial was proposed."""

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """A trial finished an epoch."""

    def ended(self, trial: Suggestion, value: float | None) -> None:
        """A trial ended with its objective, or with None where it failed."""


class GroupedSearch(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Feeds the Optuna studies of all groups in turn to one Tuner.

    A group has at most one trial under way, so the history that a proposal is made from never
    depends on timing; the groups run side by side. The sampler is seeded anew for each proposal
    from (seed, group, number): a continued search proposes what an uninterrupted one would.

    Args:
        groups: What is searched.
        config: The ``search`` group.
        database: Sqlite file of the Optuna studies.
        study_id: Prefix of their names.
        seed: Seed of the proposals.
        observer: Who is told.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        config: SearchConfig,
        database: Path,
        study_id: str,
        seed: int,
        observer: Observer,
    ) -> None:
        # without a metric: Tune would insist on it in every epoch's report
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config, self._seed, self._observer = config, seed, observer
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
        self._studies = {
            group: optuna.create_study(
                storage=storage,
                study_name=f"{study_id}/{group.name}",
                direction="maximize",
                load_if_exists=True,
            )
            for group in groups
        }
        self._spaces = {group: search_space(group.method, config.space) for group in groups}
        # a killed driver leaves trials without an end: they are proposed again under their number
        self._left_over = {
            group: study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            for group, study in self._studies.items()
        }
        self._under_way: dict[str, Suggestion] = {}
        self._proposed = {
            group: sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
            for group, study in self._studies.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher beside the run; the history that counts is in the database
        return {}

    def remaining(self) -> int:
        """Trials still to be proposed."""
        return sum(self._remaining(group) for group in self._studies)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Propose a trial of the idle group that is furthest behind."""
        busy = {trial.group for trial in self._under_way.values()}
        waiting = [group for group in self._studies if self._remaining(group) > 0]
        idle = [group for group in waiting if group not in busy]
        if not idle:
            return None if waiting or busy else Searcher.FINISHED
        # max keeps the first of equals: the order of the table
        trial = self._propose(max(idle, key=self._remaining))
        self._under_way[trial_id] = trial
        self._observer.started(trial)
        return {
            "method": trial.group.method,
            "shots": trial.group.shots,
            "number": trial.number,
            "hyperparameters": trial.hyperparameters,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what an epoch reported."""
        if trial_id in self._under_way:
            self._observer.reported(self._under_way[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna the objective; a trial without a finite one is told as failed."""
        trial = self._under_way.pop(trial_id, None)
        if trial is None:
            return
        value = None if error or result is None else float(result.get(METRIC, math.nan))
        study = self._studies[trial.group]
        if value is None or not math.isfinite(value):
            value = None
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, value)
        self._observer.ended(trial, value)

    def best(self) -> dict[Group, Suggestion]:
        """The best trial of every group.

        Raises:
            RuntimeError: All trials of a group failed.
        """
        chosen = {}
        for group, study in self._studies.items():
            done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if not done:
                raise RuntimeError(f"every trial of {group.name} failed; see the trials' logs")
            # of equals the earliest: the default setting, if nothing was better
            trial = max(done, key=lambda t: (t.value, -t.number))
            chosen[group] = Suggestion(group, trial.number, dict(trial.params))
        return chosen

    def values(self) -> dict[str, float | None]:
        """Objective of every ended trial by its key."""
        return {
            Suggestion(group, trial.number, {}).key: trial.value
            for group, study in self._studies.items()
            for trial in study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        }

    def _remaining(self, group: Group) -> int:
        return self._config.trials - self._proposed[group]

    def _propose(self, group: Group) -> Suggestion:
        number = self._proposed[group]
        self._proposed[group] += 1
        if self._left_over[group]:
            frozen = self._left_over[group].pop(0)
            return Suggestion(group, frozen.number, dict(frozen.params))
        study, space = self._studies[group], self._spaces[group]
        if number == 0:
            study.enqueue_trial(default_setting(group.method, space), skip_if_exists=True)
        study.sampler = _sampler(self._config, derive_seed(self._seed, group.name, number))
        trial = study.ask(space)
        return Suggestion(group, trial.number, dict(trial.params))


def _sampler(config: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # with few trials the usual ten random ones would leave TPE nothing to do
    startup = min(10, max(3, config.trials // 3))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
