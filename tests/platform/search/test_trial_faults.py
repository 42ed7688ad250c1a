"""What a trial does when it fails, dies or is given up; and that it goes on as if it had not."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import Events, PlantedWork, lines, planted, planted_plan, play, searcher

from ssprompt_platform import attempts
from ssprompt_platform.config.schema import Config, Dimension
from ssprompt_platform.plan import Group
from ssprompt_platform.search.pruning import Rules
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.trial import OnEpoch, TrialPlace, TrialTask, run_trial
from ssprompt_platform.storage import StudyFolder

EPOCHS = 3
TASK = TrialTask("spa-k4-t000", Group("spa", 4), {"lr_embedding": 0.1}, EPOCHS, Rules({}))


class _Death(BaseException):
    """The worker is gone at once: no code that handles errors of a trial may see this."""


@dataclass(frozen=True)
class MortalWork(PlantedWork):
    """A work whose worker dies at some of the things it does.

    Attributes:
        dies: Told the number of what is begun, from 0 on in this object, and its words.
    """

    dies: Callable[[int, list[str]], bool] = lambda number, words: False

    def _note(self, line: str) -> None:
        super()._note(line)
        if self.dies(len(lines(self)) - 1, line.split()):
            raise _Death


@dataclass(frozen=True)
class DivergingWork(PlantedWork):
    """A work whose loss is not finite at one epoch of each fit."""

    at: int = 2
    loss: float = math.nan

    def fit(self, task: TrialTask, draw: int, fold: int, on_epoch: OnEpoch, state: Any) -> float:
        def spoilt(metrics: Any, reached: Any, fitting: Any) -> None:
            loss = self.loss if metrics["epoch"] == self.at else metrics["loss"]
            on_epoch({**metrics, "loss": loss}, reached, fitting)

        return super().fit(task, draw, fold, spoilt, state)


def place(root: Path, session: str = "s", **how: Any) -> TrialPlace:
    return TrialPlace(root / TASK.key, session, **how)


def run(work: PlantedWork, where: TrialPlace, task: TrialTask = TASK) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    run_trial(work, task, where, reports.append)
    return reports


def run_to_the_end(work: PlantedWork, root: Path, task: TrialTask = TASK) -> tuple[Any, int]:
    """Start the trial again whenever its worker died; its last report and how often it died."""
    for deaths in count():
        try:
            return run(work, place(root), task)[-1], deaths
        except _Death:
            assert deaths < 100
    raise AssertionError


def without_time(report: dict[str, Any]) -> dict[str, Any]:
    # through JSON, as a checkpoint goes: pairs come back as lists
    kept: dict[str, Any] = json.loads(json.dumps(report))
    del kept["seconds"]
    return kept


def raising(error: Exception, at: int = 2) -> Callable[[TrialTask, int], None]:
    def fault(task: TrialTask, epoch: int) -> None:
        if epoch == at:
            raise error

    return fault


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no such\n  layer"), "ValueError: no such"),
        (KeyError("w"), "KeyError: 'w'"),
        (torch.OutOfMemoryError("CUDA: 3 GiB"), "out of memory (OutOfMemoryError: CUDA: 3 GiB)"),
        (MemoryError(), "out of memory (MemoryError)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_fault_is_the_result_with_its_cause_and_is_not_tried_again(
    tmp_path: Path, error: Exception, cause: str
) -> None:
    work = PlantedWork(tmp_path / "log", fault=raising(error))
    *epochs, last = run(work, place(tmp_path))
    assert (last["end"], last["miou"], last["cause"]) == ("failed", None, cause)
    assert [entry["epoch"] for entry in epochs] == [1]
    assert last["history"] == epochs
    begun = lines(work)
    # neither in this session nor in another one, and not by a work that is sound either
    for session in ("s", "another"):
        for again in (work, PlantedWork(tmp_path / "log")):
            assert run(again, place(tmp_path, session)) == [last]
    assert lines(work) == begun


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(1, EPOCHS + 1))
def test_a_loss_that_is_not_finite_ends_the_trial_at_its_epoch(
    tmp_path: Path, at: int, loss: float
) -> None:
    work = DivergingWork(tmp_path / "log", number_of_draws=2, at=at, loss=loss)
    *epochs, last = run(work, place(tmp_path))
    assert (last["end"], last["miou"], last["scores"]) == ("failed", None, [])
    assert last["cause"] == f"the loss was {loss} at epoch {at}: the fit diverged"
    assert [entry["epoch"] for entry in epochs] == list(range(1, at))
    assert last["history"] == epochs
    assert run(work, place(tmp_path)) == [last]
    assert Counter(line[0] for line in lines(work)) == {"epoch": at}


def test_a_fault_in_scoring_is_the_trials_too(tmp_path: Path) -> None:
    class Unscorable(PlantedWork):
        def confusion(self, *of: Any) -> Any:
            raise RuntimeError("no label")

    *epochs, last = run(Unscorable(tmp_path / "log"), place(tmp_path))
    assert (last["end"], last["cause"]) == ("failed", "RuntimeError: no label")
    assert last["history"] == epochs
    assert len(epochs) == EPOCHS


@pytest.mark.parametrize("checkpoint_every", [0, 1, 2])
def test_a_trial_goes_on_from_any_point_as_if_it_had_not_died(
    tmp_path: Path, checkpoint_every: int
) -> None:
    shape: dict[str, Any] = {
        "number_of_draws": 2, "folds_of_draw": 2, "checkpoint_every": checkpoint_every,
        # each draw and each K has another value: a fold that is pooled into the wrong draw shows
        "objective": lambda setting, shots, draw: planted(setting, shots) - 0.1 * draw,
    }  # fmt: skip
    task = TrialTask(TASK.key, TASK.group, TASK.hyperparameters, EPOCHS, Rules({1: 0.0, 2: 0.1}))
    whole = PlantedWork(tmp_path / "whole", **shape)
    *epochs, last = run(whole, place(tmp_path / "w"), task)
    assert last["end"] == "complete"
    assert len(last["scores"]) == 2
    assert last["scores"][0] - last["scores"][1] == pytest.approx(0.1)
    assert [entry["epoch"] for entry in epochs] == list(range(1, 2 * 2 * EPOCHS + 1))
    assert last["history"] == epochs
    assert [step for step, _ in last["rungs"]] == [1, 2]
    points = lines(whole)
    assert len(points) == 2 * 2 * (EPOCHS + 1) + 2
    for point in range(len(points)):
        root = tmp_path / str(point)
        root.mkdir()
        # not ``==``: the log of the killed trial goes on behind that point
        work = MortalWork(root / "log", dies=lambda number, _, at=point: number == at, **shape)
        killed, deaths = run_to_the_end(work, root, task)
        assert deaths == 1
        assert without_time(killed) == without_time(last), points[point]
        repeated = [line for line in lines(work) if line[0] == "epoch"]
        # what was done since the last checkpoint is done again: of one fit at most
        more = len(repeated) - len(epochs)
        assert 0 <= more <= (checkpoint_every or EPOCHS)


def test_a_trial_that_dies_at_every_single_point_still_ends_the_same(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"number_of_draws": 2, "folds_of_draw": 2}
    whole = PlantedWork(tmp_path / "whole", **shape)
    last = run(whole, place(tmp_path / "w"))[-1]
    seen: set[tuple[str, ...]] = set()

    def first_time(_: int, words: list[str]) -> bool:
        new = tuple(words) not in seen
        seen.add(tuple(words))
        return new

    work = MortalWork(tmp_path / "log", dies=first_time, **shape)
    killed, deaths = run_to_the_end(work, tmp_path)
    # deaths that follow some progress are no reason to give up, however many
    assert deaths == len(lines(whole)) > attempts.MOST
    assert without_time(killed) == without_time(last)
    times = Counter(map(tuple, lines(work)))
    assert times.keys() == set(map(tuple, lines(whole)))
    # a fit that was whole when its scoring died has only its last epoch's state to go on from
    assert {times[tuple(line)] for line in lines(whole)} == {2}


def test_a_trial_that_gets_nowhere_is_given_up(tmp_path: Path) -> None:
    work = MortalWork(tmp_path / "log", dies=lambda _, words: words[-1] == "2")
    # the first start gets to a checkpoint, and does not count
    for _ in range(1 + attempts.MOST):
        with pytest.raises(_Death):
            run(work, place(tmp_path))
    (last,) = run(work, place(tmp_path))
    assert (last["end"], last["miou"]) == ("failed", None)
    assert f"died {attempts.MOST} times after epoch 1 without" in last["cause"]
    assert [entry["epoch"] for entry in last["history"]] == [1]
    times = Counter(line[-1] for line in lines(work))
    assert times == {"1": 1, "2": 1 + attempts.MOST}
    assert run(work, place(tmp_path, "another")) == [last]
    assert len(lines(work)) == times.total()


def test_a_driver_that_was_killed_does_not_count_against_a_trial(tmp_path: Path) -> None:
    work = MortalWork(tmp_path / "log", dies=lambda _, words: words[-1] == "1")
    for session in range(3 * attempts.MOST):
        for _ in range(attempts.MOST):
            with pytest.raises(_Death):
                run(work, place(tmp_path, str(session)))
    assert run(PlantedWork(tmp_path / "log"), place(tmp_path, "last"))[-1]["end"] == "complete"


def test_workers_that_share_a_trial_are_told_of_a_fault(tmp_path: Path) -> None:
    work = PlantedWork(tmp_path / "log", fault=raising(ValueError("mine")))
    shared = place(tmp_path, alone=False)
    for _ in range(attempts.MOST + 2):
        with pytest.raises(ValueError, match="mine"):
            run(work, shared)
    # who started the workers decides; nothing was counted, and what was reached is kept
    assert not list(shared.folder.glob("attempts*"))
    last = run(PlantedWork(tmp_path / "log"), shared)[-1]
    assert last["end"] == "complete"
    assert Counter(line[-1] for line in lines(work) if line[0] == "epoch")["1"] == 1


def test_only_one_of_the_workers_that_share_a_trial_writes(tmp_path: Path) -> None:
    reader = place(tmp_path, alone=False, writes=False)
    last = run(PlantedWork(tmp_path / "log"), reader)[-1]
    assert last["end"] == "complete"
    assert not reader.folder.exists()


def test_failed_trials_are_told_to_optuna_and_stop_neither_the_search_nor_its_learning(
    tmp_path: Path,
) -> None:
    def fault(task: TrialTask, epoch: int) -> None:
        if epoch == 2 and task.hyperparameters["num_prompts"] == 16:
            raise MemoryError("16 prompts")

    config = Config()
    config.study.methods, config.study.shots = ["spa"], [1, 4]
    config.train.epochs, config.search.trials = EPOCHS, 12
    config.search.space.lr_embedding = Dimension(choices=[0.1, 0.2])
    config.search.space.lr_weight = Dimension(choices=[0.1])
    folder, events = StudyFolder(tmp_path, "s"), Events()
    search = searcher(folder, config, planted_plan(("spa",), (1, 4)), events)
    work = PlantedWork(tmp_path / "log", fault=fault)
    play(search, work, folder)

    records = read_trials(folder)
    own = [t for t in records if t.params["num_prompts"] == 16 and t.duplicate_of is None]
    assert own
    for trial in own:
        assert (trial.state, trial.value) == ("failed", None)
        assert trial.cause == events.causes[trial.key] == "out of memory (MemoryError: 16 prompts)"
        assert Counter(line[-1] for line in lines(work) if line[1] == trial.key) == {"1": 1, "2": 1}
    others = [t for t in records if t.params["num_prompts"] != 16]
    assert {t.state for t in others} <= {"complete", "duplicate"}
    # an equal setting is not run into the same fault again
    twins = [t for t in records if t.params["num_prompts"] == 16 and t.duplicate_of is not None]
    for trial in twins:
        assert trial.value is None
        assert trial.cause == f"equal to trial {trial.duplicate_of}, which failed"
    assert {group.shots for group in search.best()} == {1, 4}
    assert all(best["num_prompts"] != 16 for best in search.best().values())


def test_a_group_whose_trials_all_failed_chooses_nothing(tmp_path: Path) -> None:
    def fault(task: TrialTask, epoch: int) -> None:
        if task.group.shots == 1:
            raise ValueError("too few")

    config = Config()
    config.study.methods, config.study.shots = ["spa"], [1, 4]
    config.train.epochs, config.search.trials = EPOCHS, 3
    folder = StudyFolder(tmp_path, "s")
    search = searcher(folder, config, planted_plan(("spa",), (1, 4)))
    play(search, PlantedWork(tmp_path / "log", fault=fault), folder)
    assert list(search.best()) == [Group("spa", 4)]
    states = Counter((t.shots, t.state) for t in read_trials(folder))
    assert states == {(1, "failed"): 3, (4, "complete"): 3}
