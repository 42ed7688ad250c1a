"""One Optuna study: what to try next, and the record of what was tried, whole after any kill."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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
from ssprompt_platform.search.database import Record
from ssprompt_platform.search.evolution import Parents
from ssprompt_platform.search.memory import Memory, best_and_latest, learned_from
from ssprompt_platform.search.pruning import Judged, Rules
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
_TELL: Mapping[str, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
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
    (seed, study, number), and then written to the database in one transaction, as its end is. So a
    killed search goes on with what an uninterrupted one would have proposed, and no trial is
    half-written. What a proposal costs does not grow with the trials beyond what it looks at.

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
        storage: optuna.storages.RDBStorage,
        study_id: str,
        labelled: Mapping[int, float],
    ) -> None:
        self.name, self.method = name, groups[0].method
        self.shots = tuple(group.shots for group in groups)
        self._config, self._labelled = config, labelled
        self._pareto = config.study.mode == "pareto"
        space = search_space(self.method, config.search.space, config.train)
        self._space = _with_shots(space, self.shots) if self._pareto else space
        directions = [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] * self._pareto)]
        facts = {METHOD: self.method, SHOTS: None if self._pareto else self.shots[0]}
        self._record = Record(storage, f"{study_id}/{name}", directions, facts)
        self.trials: list[FrozenTrial] = self._record.trials()
        """All trials so far, by number."""
        search, evolves = config.search, config.search.sampler == "nsga2"
        self._parents = Parents(search.startup_trials) if evolves else None
        self._memory = Memory(directions, learned_from(search.sampler), self._parents)
        self._judged, self._judged_to = Judged(search.pruning), 0
        # setting -> number of the first trial that had it
        self._first: dict[str, int] = {}
        for trial in self.trials:
            self._first.setdefault(_identity(trial.params), trial.number)
        self._known = deque(self._known_settings())
        settings = (
            grid(self._space, vars(search.space), derive_seed(config.study.seed, name))
            if search.sampler == "grid"
            else []
        )
        self._grid_size = len(settings)
        # what is left of it; a dictionary would look for its first entry among all that are gone
        self._grid = OrderedDict((_identity(setting), setting) for setting in settings)
        for known in self._first:
            self._grid.pop(known, None)
        self._complete_batch()

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
        size = self._grid_size or setting_count(self._space)
        tried = not self._grid if self._grid_size else len(self._first) >= (size or math.inf)
        if tried:
            return f"all {size} settings of the space were tried"
        least = self._config.search.budget.min_gain
        if not least:
            return None
        complete = [trial for trial in self.trials if trial.state is TrialState.COMPLETE]
        if len(complete) >= 2 * max(4, self._config.search.startup_trials):
            # as many as its own Gaussian process can take
            looked_at = best_and_latest(complete, learned_from("gp"))
            gain = expected_gain(looked_at, self._seed(len(self.trials)))
            if gain <= least:
                return f"search.budget.min_gain: at most {gain:.4f} more is expected"
        return None

    def propose(self, count: int) -> list[Suggestion]:
        """Propose some trials that do not know of each other, and write them down."""
        if self._grid_size:
            known = sum(not self._was_tried(setting) for setting in self._known)
            count = min(count, known + len(self._grid))
        batch = len(self.trials)
        return self._add(range(batch, batch + count), batch, count)

    def _complete_batch(self) -> None:
        """Add what a kill cut off while a batch was written, before any of it runs."""
        trials = self.trials
        if trials:
            batch, count = (trials[-1].user_attrs[name] for name in (_BATCH, _TOGETHER))
            self._add(range(len(trials), batch + count), batch, count)

    def _add(self, numbers: range, batch: int, together: int) -> list[Suggestion]:
        self._memory.begin(self.trials, batch)
        # all of them before any is written: none may learn that another one runs
        proposed = [self._ask(number, batch, together) for number in numbers]
        for trial in proposed:
            self._record.add(trial)
        return [self._suggestion(trial) for trial in proposed]

    def enqueue(self, setting: Mapping[str, Any]) -> None:
        """Try a setting first, if it is new: the best one of a smaller K."""
        names = self._space.distributions
        self._known.append({name: value for name, value in setting.items() if name in names})

    def twin(self, trial: Suggestion) -> FrozenTrial | None:
        """An earlier trial of the same setting that has ended or runs, or None."""
        first = self._first[_identity(self.trials[trial.number].params)]
        return self.trials[first] if first < trial.number else None

    def rules(self, trial: Suggestion, epochs: int) -> Rules:
        """What a trial must reach to go on, by those that had ended when it was proposed."""
        batch = self.trials[trial.number].user_attrs[_BATCH]
        for before in self.trials[self._judged_to : batch]:
            self._judged.add(before)
        self._judged_to = batch
        return self._judged.rules(epochs)

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

    def _ask(self, number: int, batch: int, together: int) -> FrozenTrial:
        """Make a proposal."""
        search, seed = self._config.search, self._seed(number)
        setting = self._first_untried()
        if setting is None and search.sampler in EVEN:
            if search.sampler == "sobol":
                # one sequence for the whole study: places in it follow the trials
                setting = sobol(self._space, number, self._seed(0))
            else:
                setting = next(iter(self._grid.values()))
        if setting is not None:
            self._memory.enqueue(setting)
        sampler = learning_sampler(search, seed, self._parents, first=number == batch)
        asking = self._memory.ask(number, sampler)
        values: dict[str, Any] = {}
        for name, distribution in self._space.distributions.items():
            if self._space.active(name, values):
                values[name] = _suggest(asking, name, distribution)
        # as Optuna keeps them: a whole number given for a range of floats is a float there
        asked = self._memory.asked(number)
        identity = _identity(asked.params)
        self._first.setdefault(identity, number)
        self._grid.pop(identity, None)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=asked.params,
            distributions=asked.distributions,
            user_attrs={_BATCH: batch, _TOGETHER: together, LABELLED: self._cost(asked.params)},
            system_attrs=asked.system_attrs,
        )
        trial.number, trial.datetime_start = number, datetime.now()
        self.trials.append(trial)
        return trial

    def _first_untried(self) -> dict[str, Any] | None:
        # what was tried once stays so
        while self._known and self._was_tried(self._known[0]):
            self._known.popleft()
        return self._known[0] if self._known else None

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
        values = None
        if state == "complete":
            assert value is not None
            cost = self._cost(self.trials[number].params)
            values = [value, cost] if self._pareto else [value]
        remembered = self._memory.end(number, _TELL[state], values, rungs)
        trial = self.trials[number]
        trial.state, trial.values = remembered.state, remembered.values
        trial.intermediate_values = dict(rungs)
        trial.datetime_complete = datetime.now()
        trial.user_attrs = {**trial.user_attrs, **attributes, **told_cause}
        self._record.end(trial, {**attributes, **told_cause}, rungs)


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
