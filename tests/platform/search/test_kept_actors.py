"""A search starts its workers once, also where they wait for each other between trials."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
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


def beside_its_twin(pids: Path) -> Callable[[TrialTask, int], None]:
    """Notes the worker of a trial, and waits until the one proposed with it has a worker too."""

    def wait(task: TrialTask, epoch: int) -> None:
        mine = int(task.key[-3:])
        with pids.open("a") as file:
            file.write(f"{mine ^ 1} {os.getpid()}\n")
        last = time.monotonic() + 120
        while f"{mine} " not in [line[:2] for line in pids.read_text().splitlines()]:
            assert time.monotonic() < last, "the other trial never began"
            time.sleep(0.02)

    return wait


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
    made.train.epochs, made.search.trials, made.search.together = 1, 6, 2
    made.study.methods, made.study.shots = ["spa"], [1]
    work = PlantedWork(tmp_path / "log", fault=beside_its_twin(tmp_path / "pids"))
    search = searcher(folder, made, planted_plan(("spa",), (1,), 1), Events())
    run_search(search, in_actors(work, folder, {"CPU": 1}), folder, 2)
    assert [trial.state for trial in read_trials(folder)] == ["complete"] * 6
    assert len({line.split()[1] for line in (tmp_path / "pids").read_text().splitlines()}) == 2


def noting(pids: Path) -> Callable[[TrialTask, int], None]:
    """Notes the worker of a trial, which takes a fraction of the time that a worker starts in."""

    def note(task: TrialTask, epoch: int) -> None:
        time.sleep(0.1)
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")

    return note


@pytest.mark.usefixtures("known_to_workers")
def test_short_trials_use_all_workers(tmp_path: Path) -> None:
    """Trials that end sooner than a worker starts do not take its place from it."""
    made, folder = Config(), StudyFolder(tmp_path, "s")
    made.train.epochs, made.search.trials = 1, 100
    made.study.methods, made.study.shots = ["spa"], [1, 4]
    work = PlantedWork(tmp_path / "log", fault=noting(tmp_path / "pids"))
    search = searcher(folder, made, planted_plan(("spa",), (1, 4), 1), Events())
    run_search(search, in_actors(work, folder, {"CPU": 1}), folder, 2)
    assert len(read_trials(folder)) == 200
    ran = Counter((tmp_path / "pids").read_text().split())
    # where its start is cut short, the second one has the last trial at most
    assert len(ran) == 2
    assert min(ran.values()) > 5
