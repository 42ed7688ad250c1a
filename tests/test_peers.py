"""The comparison with peers counts the processor time of all processes, and the right trials."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from samples import ROOT

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks.parts import peers
from benchmarks.peers.problem import Done, Problem
from benchmarks.peers.processes import CommandFailedError, Run, run

BURN = "import time\nwhile time.process_time() < 0.4: pass"
ORPHAN = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}])"
PROBLEM = Problem(
    folder="/nowhere/images",
    model="small",
    checkpoint=None,
    shots=1,
    support=["a"],
    selection=["b", "c"],
    epochs=2,
    steps=3,
    batch_size=2,
    cells=4,
    trials=3,
)


def python(code: str, log: Path) -> Run:
    cores = os.sched_getaffinity(0)
    command = [sys.executable, "-c", code]
    return run(command, log, cwd=ROOT, environment=os.environ, cores=cores, interval=0.05)


def test_the_time_of_a_process_that_outlives_its_parent_counts(tmp_path: Path) -> None:
    found = python(ORPHAN, tmp_path / "log")
    assert found.processes == 2
    assert found.cpu_seconds > 0.3
    assert found.cpu == sorted(found.cpu)


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"ended with 3: (?s:.*)so it goes"):
        python("print('so it goes'); raise SystemExit(3)", tmp_path / "log")


def test_processor_time_between_two_samples_is_in_proportion() -> None:
    found = Run(times=[10.0, 12.0, 14.0], cpu=[1.0, 2.0, 6.0])
    assert [found.cpu_at(moment) for moment in (9, 11, 13, 15)] == [1.0, 1.5, 4.0, 6.0]


def test_the_first_trial_of_each_worker_is_start_up() -> None:
    found = Run(times=[0.0, 100.0], cpu=[0.0, 100.0])
    measured = peers.Measured(found, Done([10.0, 11.0, 20.0, 22.0, 31.0], [0.5] * 5), slots=2)
    assert measured.window == (11.0, 31.0)
    assert measured.counted == 3
    assert measured.seconds_each() == [10.0, 11.0, 11.0]
    assert peers.rate([measured]) == pytest.approx(9.0)
    assert peers.cpu_each([measured]) == pytest.approx(20 / 3)


def test_goals_are_said_to_be_met_or_not(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    problem = replace(PROBLEM, folder=str(tmp_path))

    def took(seconds: float, score: float = 0.5) -> list[peers.Measured]:
        found = Run(times=[0.0, 1000.0], cpu=[0.0, 1000.0])
        return [peers.Measured(found, Done([seconds * i for i in range(1, 5)], [score] * 4))]

    runs = {peers.DOCUMENTED: took(30), peers.LOOP: took(2), peers.ONE: took(4), peers.ALL: took(2)}
    said = peers.verdict("small", problem, runs)
    assert "15.0 times the trials a minute of (a) (goal 10: met)" in said
    assert "0.50 times the trials a minute of the plain loop (goal 0.9: not met)" in said
    assert "scored on 2 others" in said
    with pytest.raises(RuntimeError, match="scores differently"):
        peers.verdict("small", problem, {**runs, peers.LOOP: took(2, score=0.6)})
