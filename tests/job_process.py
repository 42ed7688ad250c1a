"""``tune_shots.py`` as a process that a test waits for, kills and runs again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from samples import ROOT


class Job:
    """``tune_shots.py`` as a process of its own session, with all that it starts."""

    def __init__(
        self, words: list[str], said: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._said = said
        with said.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs" / "tune_shots.py"), *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )

    def wait_for(self, value: Callable[[], int], least: int) -> None:
        """Until something on disk has come so far: a moment that no speed of a machine moves."""
        while value() < least:
            assert self._process.poll() is None, f"too short to be killed:\n{self.said}"
            time.sleep(0.005)

    def finish(self, code: int = 0) -> None:
        assert self._process.wait(timeout=400) == code, self.said

    def kill_worker(self, chance: random.Random) -> None:
        """Kill one of the workers of the final fits."""
        workers = [child for child in self._children() if "TrainWorker" in child.name()]
        assert workers, [child.name() for child in self._children()]
        chance.choice(workers).kill()

    def kill(self, whole: bool) -> None:
        """Kill the driver, with everything it started, or so that Ray has to end by itself."""
        children = self._children()
        self._process.kill()
        for child in children if whole else []:
            child.kill()
        self._process.wait(timeout=30)
        # Ray's agents take their time to see that they are alone, and hold nothing of a study
        ending = [child for child in children if not _name(child).endswith("Agent")]
        _, alive = psutil.wait_procs(ending, timeout=90)
        assert not alive, [_name(child) for child in alive]

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in [*self._children(), self._process]:
            process.kill()
        self._process.wait(timeout=30)

    @property
    def said(self) -> str:
        """The end of what it printed."""
        return self._said.read_text()[-4000:]

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@contextmanager
def job(
    words: list[str], said: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Job]:
    started = Job(words, said, environment)
    try:
        yield started
    finally:
        started.end()


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""
