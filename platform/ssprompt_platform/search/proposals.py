"""One Optuna study: what to try next, and the record of what was tried, whole after any kill."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import Group, derive_seed
from ssprompt_platform.search.budget import expected_gain
from ssprompt_platform.search.pruning import Rules, rules
from ssprompt_platform.search.records import (
    CAUSE,
    DUPLICATE_OF,
    LABELLED,
    METHOD,
    SCORES,
    SECONDS,
    SHOTS,
    State,
)
from ssprompt_platform.search.samplers import EVEN, grid, learning_sampler, sobol
from ssprompt_platform.search.space import Space, search_space, setting_count

_BATCH = "batch"
"""User attribute: number of the first trial that was proposed together with this one."""
_TOGETHER = "together"
"""User attribute: how many trials were proposed together with this one, itself included."""
_TELL: Mapping[str, TrialState] = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Suggestion:
    """A trial: its Optuna study and number there, its method, K and hyperparameters."""

    study: str
    method: str
    shots: int
    number: int
    hyperparameters: dict[str, Any]

    @property
    def group(self) -> Group:
        """Method and K."""
        return Group(self.method, self.shots)

    @property
    def key(self) -> str:
        """Identity of the trial within its study, the same after every restart."""
        return f"{self.study}-t{self.number:03d}"


class Proposals:
    """Proposes trials of one Optuna study and records how they end.

    A proposal is made on a copy of the history in memory, by a sampler that is seeded anew from
    (seed, study, number), and then written to the database in one transaction. So a killed search
    goes on with what an uninterrupted one would have proposed, and no trial is half-written.

    Args:
        name: Name of the Optuna study without the study's id.
        groups: Its method at one K, or at all K between which it chooses.
        config: The whole configuration.
        storage: Optuna's storage.
        study_id: Identity of the study, first part of the Optuna study's name.
        labelled: Labelled images that each K costs.
    """

    def __init__(
        self,
        name: str,
        groups: Sequence[Group],
        config: Config,
        storage: optuna.storages.BaseStorage,
        study_id: str,
        labelled: Mapping[int, float],
    ) -> None:
        self.name, self.method = name, groups[0].method
        self.shots = tuple(group.shots for group in groups)
        self._config, self._labelled = config, labelled
        self._pareto = config.study.mode == "pareto"
        space = search_space(self.method, config.search.space, config.train)
        self._space = _with_shots(space, self.shots) if self._pareto else space
        self._directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] * self._pareto)]
        self._storage = storage
        self._record = optuna.create_study(
            storage=storage,
            study_name=f"{study_id}/{name}",
            directions=self._directions,
            # proposes nothing: the copy in memory does
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        for key, value in ((METHOD, self.method), (SHOTS, None if self._pareto else self.shots[0])):
            self._record.set_user_attr(key, value)
        recorded = self._record.get_trials(deepcopy=False)
        self._memory = self._copy(recorded)
        self._ids = {trial.number: trial._trial_id for trial in recorded}
        # setting -> number of the first trial that had it
        self._first: dict[str, int] = {}
        for trial in recorded:
            self._first.setdefault(_identity(trial.params), trial.number)
        self._known = self._known_settings()
        self._grid = (
            grid(self._space, vars(config.search.space), derive_seed(config.study.seed, name))
            if config.search.sampler == "grid"
            else []
        )
        self._complete_batch()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials so far, by number."""
        return self._memory.get_trials(deepcopy=False)

    def unfinished(self) -> list[Suggestion]:
        """Trials that were proposed but have no end: those that a kill interrupted."""
        return [self._suggestion(t) for t in self.trials if not t.state.is_finished()]

    def remaining(self) -> int:
        """Trials still to be proposed."""
        return max(0, self._config.search.trials - len(self.trials))

    def exhausted(self) -> str | None:
        """Why nothing more is to be proposed, or None; asked when no trial is under way."""
        if not self.remaining():
            return f"search.trials: all {self._config.search.trials} were proposed"
        size = len(self._grid) or setting_count(self._space)
        tried = self._grid_left() == 0 if self._grid else len(self._first) >= (size or math.inf)
        if tried:
            return f"all {size} settings of the space were tried"
        least = self._config.search.budget.min_gain
        complete = sum(trial.state is TrialState.COMPLETE for trial in self.trials)
        if least and complete >= 2 * max(4, self._config.search.startup_trials):
            gain = expected_gain(self.trials, self._seed(len(self.trials)))
            if gain <= least:
                return f"search.budget.min_gain: at most {gain:.4f} more is expected"
        return None

    def propose(self, count: int) -> list[Suggestion]:
        """Propose some trials that do not know of each other, and write them down."""
        if self._config.search.sampler == "nsga2":
            # it keeps its parents in the study, which a search that goes on would not have
            self._memory = self._copy(self.trials)
        if self._grid:
            known = sum(not self._was_tried(setting) for setting in self._known)
            count = min(count, known + self._grid_left())
        batch = len(self.trials)
        return self._add(range(batch, batch + count), batch, count)

    def _complete_batch(self) -> None:
        """Add what a kill cut off while a batch was written, before any of it runs."""
        trials = self.trials
        if trials:
            batch, count = (trials[-1].user_attrs[name] for name in (_BATCH, _TOGETHER))
            self._add(range(len(trials), batch + count), batch, count)

    def _add(self, numbers: range, batch: int, together: int) -> list[Suggestion]:
        # all of them before any is written: none may learn that another one runs
        proposed = [self._ask(number) for number in numbers]
        for number, trial in zip(numbers, proposed, strict=True):
            frozen = create_trial(
                state=TrialState.RUNNING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={
                    _BATCH: batch,
                    _TOGETHER: together,
                    LABELLED: self._cost(trial.params),
                },
                system_attrs=trial.system_attrs,
            )
            self._record.add_trial(frozen)
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(
                self._record._study_id, number
            )
            for name, value in frozen.user_attrs.items():
                self._memory._storage.set_trial_user_attr(trial._trial_id, name, value)
        return [self._suggestion(trial) for trial in proposed]

    def enqueue(self, setting: Mapping[str, Any]) -> None:
        """Try a setting first, if it is new: the best one of a smaller K."""
        names = self._space.distributions
        self._known.append({name: value for name, value in setting.items() if name in names})

    def twin(self, trial: Suggestion) -> FrozenTrial | None:
        """An earlier trial of the same setting that has ended or runs, or None."""
        trials = self.trials
        first = self._first[_identity(trials[trial.number].params)]
        return trials[first] if first < trial.number else None

    def rules(self, trial: Suggestion, epochs: int) -> Rules:
        """What a trial must reach to go on, by those that had ended when it was proposed."""
        batch = self.trials[trial.number].user_attrs[_BATCH]
        return rules(self._config.search.pruning, epochs, self.trials[:batch])

    def repeat(self, trial: Suggestion, twin: FrozenTrial) -> tuple[State, float | None]:
        """Tell a trial what an equal one before it has shown, without running it."""
        state = _STATES[twin.state]
        cause = f"equal to trial {twin.number}, which failed" if state == "failed" else None
        value = twin.values[0] if twin.values else None
        attributes = {DUPLICATE_OF: twin.number, SCORES: list(twin.user_attrs.get(SCORES, ()))}
        self._end(trial.number, state, value, cause, attributes, twin.intermediate_values)
        return state, value

    def end(
        self,
        trial: Suggestion,
        state: State,
        value: float | None,
        *,
        cause: str | None,
        scores: Sequence[float],
        rungs: Mapping[int, float],
        seconds: float,
    ) -> None:
        """Record how a trial ended."""
        attributes = {SCORES: list(scores), SECONDS: seconds}
        self._end(trial.number, state, value, cause, attributes, rungs)

    def best(self) -> dict[Group, dict[str, Any]]:
        """The best setting of each K that has a completed trial; of equals the earliest."""
        chosen: dict[int, FrozenTrial] = {}
        for trial in self.trials:
            if trial.state is TrialState.COMPLETE:
                k = self._shots_of(trial.params)
                if k not in chosen or trial.values[0] > chosen[k].values[0]:
                    chosen[k] = trial
        return {
            Group(self.method, k): self._suggestion(trial).hyperparameters
            for k, trial in sorted(chosen.items())
        }

    def failed(self) -> bool:
        """Whether trials were run and none of them was completed."""
        ended = [trial for trial in self.trials if trial.state.is_finished()]
        return bool(ended) and all(trial.state is not TrialState.COMPLETE for trial in ended)

    @property
    def default(self) -> dict[str, Any]:
        """The documented defaults inside the space, without K."""
        return {name: v for name, v in self._space.default.items() if name != SHOTS}

    def _copy(self, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """A study in memory with this history."""
        study = optuna.create_study(directions=self._directions)
        study.add_trials(trials)
        return study

    def _known_settings(self) -> list[dict[str, Any]]:
        """What is tried before anything is sampled: the defaults, then what the user named."""
        known: list[dict[str, Any]] = []
        if self._config.search.sampler != "grid":
            default = self._space.default
            known += [{**default, SHOTS: k} for k in self.shots] if self._pareto else [default]
        for entry in self._config.search.enqueue:
            of_shots = entry.get("shots")
            if entry.get("method", self.method) != self.method:
                continue
            if not self._pareto and of_shots not in (None, self.shots[0]):
                continue
            names = self._space.distributions
            known.append({name: value for name, value in entry.items() if name in names})
        return known

    def _ask(self, number: int) -> FrozenTrial:
        """Add a proposal to the copy in memory."""
        study, search = self._memory, self._config.search
        seed = self._seed(number)
        study.sampler = learning_sampler(search, seed)
        setting = self._first_untried()
        if setting is None and search.sampler in EVEN:
            if search.sampler == "sobol":
                # one sequence for the whole study: places in it follow the trials
                setting = sobol(self._space, number, self._seed(0))
            else:
                setting = next(s for s in self._grid if _identity(s) not in self._first)
        if setting is not None:
            study.enqueue_trial(setting)
        trial = study.ask()
        values: dict[str, Any] = {}
        for name, distribution in self._space.distributions.items():
            if self._space.active(name, values):
                values[name] = _suggest(trial, name, distribution)
        # as Optuna keeps them: a whole number given for a range of floats is a float there
        asked = self.trials[number]
        self._first.setdefault(_identity(asked.params), number)
        return asked

    def _first_untried(self) -> dict[str, Any] | None:
        return next((setting for setting in self._known if not self._was_tried(setting)), None)

    def _grid_left(self) -> int:
        return sum(_identity(setting) not in self._first for setting in self._grid)

    def _was_tried(self, setting: Mapping[str, Any]) -> bool:
        """Whether some trial has these values; a setting may name a part of them only."""
        return any(
            all(t.params.get(name, value) == value for name, value in setting.items())
            and any(name in t.params for name in setting)
            for t in self.trials
        )

    def _seed(self, number: int) -> int:
        return derive_seed(self._config.study.seed, self.name, number)

    def _cost(self, params: Mapping[str, Any]) -> float:
        return float(self._labelled[self._shots_of(params)])

    def _shots_of(self, params: Mapping[str, Any]) -> int:
        return int(params[SHOTS]) if self._pareto else self.shots[0]

    def _suggestion(self, trial: FrozenTrial) -> Suggestion:
        values = {n: trial.params[n] for n in self._space.distributions if n in trial.params}
        values.pop(SHOTS, None)
        k = self._shots_of(trial.params)
        return Suggestion(self.name, self.method, k, trial.number, values)

    def _end(
        self,
        number: int,
        state: State,
        value: float | None,
        cause: str | None,
        attributes: Mapping[str, Any],
        rungs: Mapping[int, float],
    ) -> None:
        told_cause = {} if cause is None else {CAUSE: cause}
        self._set(number, {**attributes, **told_cause}, rungs)
        told: dict[str, Any] = {"state": _TELL[state]} if state in _TELL else {}
        if state == "complete":
            assert value is not None
            cost = self._cost(self.trials[number].params)
            told = {"values": [value, cost] if self._pareto else value}
        for study in (self._memory, self._record):
            study.tell(number, **told)

    def _set(self, number: int, attributes: Mapping[str, Any], rungs: Mapping[int, float]) -> None:
        places = (
            (self._memory._storage, self.trials[number]._trial_id),
            (self._storage, self._ids[number]),
        )
        for storage, trial_id in places:
            for step, value in rungs.items():
                storage.set_trial_intermediate_value(trial_id, step, value)
            for name, value in attributes.items():
                storage.set_trial_user_attr(trial_id, name, value)


def _with_shots(space: Space, shots: Sequence[int]) -> Space:
    """The space with K as its first dimension."""
    return Space(
        {SHOTS: CategoricalDistribution(tuple(shots)), **space.distributions},
        space.conditions,
        space.default,
        space.elsewhere,
    )


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _identity(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
