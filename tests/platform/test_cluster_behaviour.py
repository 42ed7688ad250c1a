"""Machines join late, one is lost in the middle of trials, and then all of them are."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_process import TESTS, ClusterProcess, cluster
from finished_studies import runs_by_key
from planted_driver import METHODS, SHOTS, TRIALS, search_of, work_of
from synthetic import play

from ssprompt_platform.capacity import VARIABLE
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import StudyFolder

pytestmark = pytest.mark.e2e

SEARCHED = len(METHODS) * len(SHOTS) * TRIALS


class Driver:
    """The search as a process that joins a cluster."""

    def __init__(self, on: ClusterProcess, root: Path, workers: int, seconds: float) -> None:
        root.mkdir(exist_ok=True)
        self.root, self._said = root, root / "said"
        words = [str(root), str(workers)]
        with self._said.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(TESTS / "cluster_driver.py"), *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**on.environment, VARIABLE: str(seconds)},
                cwd=TESTS,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def machines(self) -> Counter[str]:
        """Epochs that each machine began."""
        log = self.root / "machines"
        lines = log.read_text().splitlines() if log.exists() else []
        return Counter(line.split()[2] for line in lines)

    def ended(self) -> int:
        return sum(record.state != "running" for record in read_trials(StudyFolder(self.root, "s")))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.05)

    def finish(self, seconds: float = 180) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


def trials_of(root: Path) -> list[tuple[Any, ...]]:
    records = read_trials(StudyFolder(root, "s"))
    return sorted((t.key, t.state, str(t.params), t.value, tuple(t.scores)) for t in records)


def undisturbed(root: Path) -> list[tuple[Any, ...]]:
    """The same search in this process."""
    root.mkdir()
    folder = StudyFolder(root, "s")
    play(search_of(folder), work_of(root, 0.0), folder, slots=3)
    return trials_of(root)


def test_machines_come_late_and_are_lost_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "whole")
    root = tmp_path / "study"
    root.mkdir()
    hold = root / "hold"
    hold.touch()
    with cluster() as first:
        driver = Driver(first, root, workers=2, seconds=120)
        try:
            # the cluster has no worker at all: the driver waits, and says so
            driver.wait_for(lambda: "waiting for 2 workers of the cluster" in driver.said)
            one = first.add()
            assert "searching" not in driver.said
            two = first.add()
            driver.wait_for(lambda: {one, two} <= driver.machines().keys())
            # one that joins in the middle of the search takes a share
            three = first.add()
            driver.wait_for(lambda: driver.machines()[three] > 0)
            # and one is lost with the trial that it runs, which goes on elsewhere
            first.kill(two)
            hold.unlink()
            driver.wait_for(lambda: driver.ended() >= SEARCHED // 4)
            hold.touch()
            # the head is lost with everything on it, the driver of the study too
            first.lose()
        finally:
            driver.kill()
    hold.unlink()
    before = driver.ended()
    with cluster() as second:
        second.add(2)
        again = Driver(second, root, workers=2, seconds=120)
        try:
            assert again.finish() == 0, again.said[-3000:]
        finally:
            again.kill()
    assert 0 < before < SEARCHED
    # the same trials, settings and scores as without any of this, each once
    assert trials_of(root) == expected
    assert len(expected) == SEARCHED
    ran = {key for key, state, *_ in expected if state != "duplicate"}
    runs = runs_by_key(StudyFolder(root, "s"))
    assert {key for key in runs if "-t" in key} == ran
    assert {runs[key].info.status for key in ran} == {"FINISHED"}


def test_what_does_not_come_is_told(tmp_path: Path) -> None:
    with cluster() as small:
        small.add()
        driver = Driver(small, tmp_path / "study", workers=2, seconds=0.5)
        assert driver.finish() != 0
        assert "train.workers asks for 2 workers of 1 CPUs, but after 0.5 seconds" in driver.said
        assert "the cluster has room for 1" in driver.said
        assert not driver.machines()
