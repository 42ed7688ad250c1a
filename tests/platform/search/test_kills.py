"""Workers, drivers and the whole cluster are killed (-9): nothing is lost, doubled or changed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from planted_driver import DRAWS, EPOCHS, METHODS, SHOTS, TRIALS, search_of, work_of
from samples import ROOT
from synthetic import PlantedWork, lines, play

from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import StudyFolder

pytestmark = pytest.mark.e2e

WORKERS_KILLED = (3, 2, 2)
"""Workers that are killed before each driver is: ten kills."""


def start(root: Path, pause: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "planted_driver.py"), str(root), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'platform'}"},
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(("searching", "done")):
            return process
    raise AssertionError("".join(said))


def finish(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    rest = process.stdout.read()
    assert process.wait(timeout=180) == 0, rest
    assert rest.rstrip().endswith("done")


def noted(root: Path) -> list[list[str]]:
    work = PlantedWork(root / "log")
    return lines(work) if work.log.exists() else []


def wait_for_more(root: Path, process: subprocess.Popen[str], count: int) -> None:
    """Until so many more epochs were run: a moment within the search, however slow the machine."""
    until = len(noted(root)) + count
    while len(noted(root)) < until and process.poll() is None:
        time.sleep(0.01)


def kill_worker(process: subprocess.Popen[str], chance: random.Random) -> bool:
    found = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("ray::Implicit")
    ]
    if not found:
        return False
    chance.choice(found).kill()
    return True


def kill_driver(process: subprocess.Popen[str], whole_cluster: bool) -> None:
    """Kill the driver; with the cluster, or so that Ray finds out by itself and ends."""
    children = psutil.Process(process.pid).children(recursive=True)
    agents = [child for child in children if child.name().endswith("Agent")]
    if whole_cluster:
        for child in children:
            child.kill()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    # the workers must be gone; Ray's agents, which hold nothing of a study, take their time
    psutil.wait_procs([c for c in children if c not in agents], timeout=60)


def records(root: Path) -> list[tuple[Any, ...]]:
    return [
        (t.key, t.state, t.params, t.value, t.scores) for t in read_trials(StudyFolder(root, "s"))
    ]


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        root.mkdir()
    play(search_of(StudyFolder(whole, "s")), work_of(whole, 0.0), StudyFolder(whole, "s"))
    chance = random.Random(time.time_ns())
    kills = 0
    for session, workers in enumerate(WORKERS_KILLED):
        process = start(killed, 0.1)
        try:
            for _ in range(workers):
                wait_for_more(killed, process, chance.randint(1, 8))
                kills += kill_worker(process, chance)
            wait_for_more(killed, process, chance.randint(1, 8))
            assert process.poll() is None, "the search must be long enough to be killed in"
            kill_driver(process, whole_cluster=session % 2 == 1)
            kills += 1
        finally:
            if process.poll() is None:
                process.kill()
    # a worker that was between two trials at that moment had another name
    assert kills >= len(WORKERS_KILLED) + 4
    finish(start(killed, 0.0))

    assert records(killed) == records(whole)
    trials = len(METHODS) * len(SHOTS) * TRIALS
    assert len(records(whole)) == trials
    assert {state for _, state, *_ in records(whole)} == {"complete"}
    # every epoch of every trial was run; one that was cut off by a kill was run again, and no other
    said = Counter(tuple(line) for line in noted(killed) if line[0] == "epoch")
    assert set(said) == {tuple(line) for line in noted(whole) if line[0] == "epoch"}
    assert len(said) == trials * DRAWS * EPOCHS
    # a kill meets at most the two trials under way, each in one epoch
    assert sum(said.values()) - len(said) <= 2 * kills

    client = MlflowClient(f"sqlite:///{killed / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'e'")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'search'", max_results=1000)
    keys = Counter(run.data.tags["trial.key"] for run in runs)
    assert keys == {key: 1 for key, *_ in records(whole)}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        losses = client.get_metric_history(run.info.run_id, "train.loss")
        # an epoch whose worker died as it told it comes with the trial's end
        assert sorted(metric.step for metric in losses) == list(range(1, DRAWS * EPOCHS + 1))
