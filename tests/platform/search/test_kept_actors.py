"""A search starts its workers once, also where they wait for each other between trials."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import synthetic
from synthetic import Events, PlantedWork, planted_plan, searcher

from ssprompt_platform.config.schema import Config
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.trial import TrialTask
from ssprompt_platform.search.tuning import in_actors, run_search
from ssprompt_platform.storage import StudyFolder


def pid_into(pids: Path) -> Callable[[TrialTask, int], None]:
    def note(task: TrialTask, epoch: int) -> None:
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")

    return note


@pytest.fixture
def known_to_workers(ray_cluster: None) -> Iterator[None]:
    """Workers cannot import the modules of the tests: what they run of these is sent to them."""
    modules = (synthetic, sys.modules[__name__])
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.usefixtures("known_to_workers")
def test_trials_that_are_proposed_together_start_no_worker_anew(tmp_path: Path) -> None:
    made, folder = Config(), StudyFolder(tmp_path, "s")
    made.train.epochs, made.search.trials, made.search.together = 1, 8, 2
    made.study.methods, made.study.shots = ["spa"], [1]
    work = PlantedWork(tmp_path / "log", fault=pid_into(tmp_path / "pids"))
    search = searcher(folder, made, planted_plan(("spa",), (1,), 1), Events())
    run_search(search, in_actors(work, folder, {"CPU": 1}), folder, 2)
    assert [trial.state for trial in read_trials(folder)] == ["complete"] * 8
    assert 1 <= len(set((tmp_path / "pids").read_text().split())) <= 2
