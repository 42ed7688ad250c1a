"""Runs a command and counts the processor time of every process that came of it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 20.0


class CommandFailedError(RuntimeError):
    """The command ended with an error; the message ends with what it printed last."""


@dataclass
class Run:
    """What a command took.

    Attributes:
        seconds: From its start until it ended.
        processes: How many processes were seen, itself included.
        times: Moments (seconds of the epoch) of the samples.
        cpu: Seconds of processor time, user and system, of all its processes until then.
    """

    seconds: float = 0.0
    processes: int = 0
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def cpu_seconds(self) -> float:
        """Of the whole run."""
        return self.cpu[-1] if self.cpu else 0.0

    def cpu_at(self, moment: float) -> float:
        """Processor time until a moment, between two samples in proportion."""
        after = bisect_left(self.times, moment)
        if after == 0:
            return self.cpu[0]
        if after == len(self.times):
            return self.cpu[-1]
        earlier, later = self.times[after - 1 : after + 1]
        share = (moment - earlier) / (later - earlier)
        return self.cpu[after - 1] + share * (self.cpu[after] - self.cpu[after - 1])


def run(
    command: Sequence[str],
    log: Path,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    cores: Collection[int],
    interval: float = 0.2,
) -> Run:
    """Run a command to its end, with all that it starts.

    ``/proc`` is read every ``interval`` seconds: what counts of a process is its last reading, so
    at most an interval of each is missed. Processes whose parent has ended become children of this
    one and are counted on.

    Args:
        command: Its words.
        log: File for what it prints.
        cwd: Working directory.
        environment: Its environment, whole.
        cores: The cores that it and what it starts may use.
        interval: Seconds between samples.

    Raises:
        CommandFailedError: It ended with another code than 0.
    """
    tree = _Tree()
    found = Run()
    begun = time.time()
    with log.open("wb") as output, _adopting():
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            # a session of its own: Ctrl-C reaches it through this process alone
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            code = None
            while code is None:
                time.sleep(interval)
                tree.sample(found)
                code = process.poll()
            found.seconds = time.time() - begun
            # what the command leaves behind may end by itself: its time counts too
            last = time.monotonic() + _PATIENCE
            while tree.sample(found) and time.monotonic() < last:
                tree.reap()
                time.sleep(interval)
        finally:
            tree.kill()
            process.wait()
            tree.reap()
    found.processes = len(tree.read)
    if code:
        end = log.read_text(errors="replace")[-2000:]
        raise CommandFailedError(f"{' '.join(command[:4])} ended with {code}: {end}")
    return found


@contextmanager
def _adopting() -> Iterator[None]:
    """Processes below this one whose parent ends become its children for the duration."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SUBREAPER, 0, 0, 0, 0)


class _Tree:
    """The processes below this one, without those that there were already.

    Attributes:
        read: Processor time in ticks of every process, by pid and start, as last seen.
    """

    def __init__(self) -> None:
        self.read: dict[tuple[int, int], int] = {}
        self._others = set(_children().get(os.getpid(), []))

    def sample(self, found: Run) -> int:
        """Read all times; returns how many processes there are."""
        living = 0
        for pid in self._pids():
            try:
                words = _stat(pid)
            except OSError:
                continue
            # user and system time; pid and start time together name a process
            self.read[pid, int(words[19])] = int(words[11]) + int(words[12])
            living += words[0] != "Z"
        found.times.append(time.time())
        found.cpu.append(sum(self.read.values()) / _TICKS)
        return living

    def kill(self) -> None:
        """End what is still there."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Take the exit codes of adopted processes."""
        for pid in self._pids():
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _pids(self) -> list[int]:
        children = _children()
        pids = [pid for pid in children.get(os.getpid(), []) if pid not in self._others]
        for pid in pids:  # grows as it goes
            pids += children.get(pid, [])
        return pids


def _children() -> dict[int, list[int]]:
    """Every parent's children."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    return children


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on: the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
