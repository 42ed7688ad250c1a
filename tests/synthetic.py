"""A search with known answers: a planted objective in the place of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from ssprompt_platform.search.grouped import GroupedSearch, Observer
from ssprompt_platform.search.proposals import Suggestion
from ssprompt_platform.search.records import State
from ssprompt_platform.search.trial import OnEpoch, TrialPlace, TrialTask, run_trial
from ssprompt_platform.storage import StudyFolder

_SCALE = 10**9


def planted_rate(shots: int) -> float:
    """The best learning rate at a K."""
    return 0.05 * shots**0.5


def planted(setting: Mapping[str, Any], shots: int, draw: int = 0) -> float:
    """MIoU of a setting: peaks at ``planted_rate`` and 9 prompts, grows with K."""
    top = 0.8 - 0.5 * shots**-0.5
    rate = setting.get("lr_embedding", setting.get("lr_probe", 0.1))
    off = 0.05 * math.log(rate / planted_rate(shots)) ** 2
    off += 0.02 * abs(setting.get("num_prompts", 9) - 9) ** 0.5
    return max(0.01, top - off - 0.01 * (draw % 3))


@dataclass(frozen=True)
class PlantedWork:
    """Learns the planted objective epoch by epoch, and notes what it is asked in a file.

    Attributes:
        log: A line per epoch and per scoring, from all processes.
        number_of_draws: Support draws.
        folds_of_draw: Fits per draw.
        images: Images that a fold is scored on.
        pause: Seconds an epoch takes.
        fault: Called at each epoch; may raise or kill.
        checkpoint_every: Epochs between states.
        objective: MIoU of (setting, K, draw).
    """

    log: Path
    number_of_draws: int = 1
    folds_of_draw: int = 1
    images: int = 4
    pause: float = 0.0
    fault: Callable[[TrialTask, int], None] | None = None
    checkpoint_every: int = 1
    objective: Callable[[Mapping[str, Any], int, int], float] = planted

    @property
    def draws(self) -> int:
        return self.number_of_draws

    def folds(self, draw: int, shots: int) -> int:
        return self.folds_of_draw

    def fit(
        self, task: TrialTask, draw: int, fold: int, on_epoch: OnEpoch, state: TrainState | None
    ) -> float:
        # what is learned depends on every epoch: an epoch left out or done twice would show
        learned = float(state["learned"]) if state is not None else 0.0
        first = int(state["epoch"]) if state is not None else 0
        target = self.objective(task.hyperparameters, task.group.shots, draw)
        for epoch in range(first + 1, task.epochs + 1):
            self._note(f"epoch {task.key} {draw} {fold} {epoch}")
            if self.fault is not None:
                self.fault(task, epoch)
            time.sleep(self.pause)
            learned += (target - learned) * (1.0 if epoch == task.epochs else 0.7)
            kept = None
            if self.checkpoint_every and epoch % self.checkpoint_every == 0:
                kept = TrainState(
                    learned=torch.tensor(learned, dtype=torch.float64), epoch=torch.tensor(epoch)
                )
            on_epoch({"epoch": epoch, "loss": 1.0 - learned}, kept, learned)
        return learned

    def confusion(self, fitted: float, task: TrialTask, draw: int, fold: int) -> NDArray[np.int64]:
        self._note(f"scored {task.key} {draw} {fold} {self.images}")
        right = round(fitted * _SCALE)
        return np.array([[right, _SCALE - right], [0, 0]], np.int64)

    def _note(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{line}\n")


def lines(work: PlantedWork) -> list[list[str]]:
    """What the work was asked, word by word."""
    return [line.split() for line in work.log.read_text().splitlines()]


class Events:
    """Remembers what an observer is told."""

    def __init__(self) -> None:
        self.started_keys: list[str] = []
        self.ended_states: dict[str, State] = {}
        self.causes: dict[str, str | None] = {}
        self.ends = 0

    def started(self, trial: Suggestion) -> None:
        self.started_keys.append(trial.key)

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        assert metrics.keys() & {"epoch", "end"}

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        self.ends += 1
        self.ended_states[trial.key] = state
        self.causes[trial.key] = cause


def planted_plan(methods: tuple[str, ...], shots: tuple[int, ...], draws: int = 1) -> StudyPlan:
    """A plan without images: K shots cost 3 images each."""
    groups = tuple(Group(method, k) for method in methods for k in shots)
    fold = Fold(("a",), ("b",))
    return StudyPlan(
        draws=tuple(SupportDraw(n, dict.fromkeys(shots, ("a",)), {}) for n in range(draws)),
        groups=groups,
        searched=groups,
        fits=tuple(FitKey(g.method, g.shots, n) for g in groups for n in range(draws)),
        folds={(n, k): (fold,) for n in range(draws) for k in shots},
        labelled={k: 3.0 * k for k in shots},
        test_ids=("t",),
    )


def searcher(
    folder: StudyFolder, config: Config, plan: StudyPlan, *observers: Observer
) -> GroupedSearch:
    """A searcher on a study's folder."""
    folder.path.mkdir(parents=True, exist_ok=True)
    search = GroupedSearch(plan, config, folder, Budget(config.search.budget, folder.spent, 0.0))
    search.observe(*observers)
    return search


def play(
    search: GroupedSearch,
    work: PlantedWork,
    folder: StudyFolder,
    slots: int = 2,
    newest_first: bool = False,
    stop_after: int = 10**9,
) -> None:
    """Run trials in this process as Tune would on so many slots, in one order or the other."""
    running: list[tuple[str, dict[str, Any]]] = []
    count = ended = 0
    while ended < stop_after:
        suggestion = search.suggest(f"x{count}") if len(running) < slots else None
        if isinstance(suggestion, dict):
            running.append((f"x{count}", suggestion))
            count += 1
            continue
        if not running:
            if suggestion is None and count:
                continue
            return
        trial_id, config = running.pop(-1 if newest_first else 0)
        task = TrialTask.of(config)
        last: list[dict[str, Any]] = []
        run_trial(work, task, TrialPlace(folder.trials / task.key, "session"), last.append)
        for values in last[:-1]:
            search.on_trial_result(trial_id, values)
        search.on_trial_complete(trial_id, last[-1])
        ended += 1
