"""Runs a command and counts the processor time of every process that came of it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    found, read = Run(), {}
    begun = time.time()
    with log.open("wb") as output:
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
            _sample(found, read)
            code = process.poll()
        found.seconds = time.time() - begun
        _wait_for_all(found, read, interval)
    finally:
        for pid in list(_descendants()):
            _kill(pid)
        process.wait()
        _reap()
    found.processes = len(read)
    if code:
        end = log.read_text(errors="replace")[-2000:]
        raise CommandFailedError(f"{' '.join(command[:4])} ended with {code}: {end}")
    return found


def _wait_for_all(found: Run, read: dict[tuple[int, int], int], interval: float) -> None:
    """Let what the command leaves behind end by itself: its time counts too."""
    last = time.monotonic() + _PATIENCE
    while _sample(found, read) and time.monotonic() < last:
        _reap()
        time.sleep(interval)


def _sample(found: Run, read: dict[tuple[int, int], int]) -> int:
    """Read the times of all descendants; returns how many there are."""
    living = 0
    for pid in _descendants():
        try:
            words = _stat(pid)
        except OSError:
            continue
        # state, then: 11 user and 12 system time, 19 start time; with the pid it names the process
        living += words[0] != "Z"
        read[pid, int(words[19])] = int(words[11]) + int(words[12])
    found.times.append(time.time())
    found.cpu.append(sum(read.values()) / _TICKS)
    return living


def _descendants() -> Iterator[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += below
        yield from below


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on: the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap() -> None:
    """Take the exit codes of orphans that ended; those of `subprocess` are asked for by pid."""
    me = os.getpid()
    for pid in list(_descendants()):
        try:
            words = _stat(pid)
            if words[0] == "Z" and int(words[1]) == me:
                os.waitpid(pid, os.WNOHANG)
        except (OSError, ChildProcessError):
            continue
