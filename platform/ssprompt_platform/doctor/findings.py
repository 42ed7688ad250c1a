"""What a check finds, and what it is told to look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ssprompt_platform.config.schema import Config
from ssprompt_platform.storage import Place


class State(StrEnum):
    """How things stand: a study runs, runs with a loss, or does not run."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: What was looked at.
        state: How it stands.
        found: What was found.
        mend: A command or setting that mends it; empty where nothing is wrong.
    """

    name: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        config: Of the study that is to run.
        root: Its storage root.
        fast: Whether only what takes seconds is done.
    """

    config: Config
    root: Place
    fast: bool = False


@dataclass(frozen=True)
class Check:
    """A part of the examination.

    Attributes:
        name: What is looked at.
        run: Yields what it finds.
        slow: Left out where only what takes seconds is done.
    """

    name: str
    run: Callable[[Subject], Iterable[Finding]]
    slow: bool = False

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Run the check; one that breaks is a finding itself, and the others go on."""
        if self.slow and subject.fast:
            return
        try:
            yield from self.run(subject)
        except Exception as error:  # noqa: BLE001  (whatever it is: shown, the others go on)
            # its text may hold what is secret
            yield Finding(
                self.name,
                State.FAIL,
                f"the check itself broke: {type(error).__name__}",
                "report this, with the versions above",
            )


def ok(name: str, found: str) -> Finding:
    """A line about what is right."""
    return Finding(name, State.OK, found)


def warn(name: str, found: str, mend: str) -> Finding:
    """A line about what a study can do without."""
    return Finding(name, State.WARN, found, mend)


def fail(name: str, found: str, mend: str) -> Finding:
    """A line about what keeps a study from running."""
    return Finding(name, State.FAIL, found, mend)


def of_sentence(name: str, sentence: str, state: State = State.FAIL) -> Finding:
    """A line of a sentence whose last part, after a semicolon, says what to do."""
    found, semicolon, mend = sentence.rpartition("; ")
    return Finding(name, state, found, mend) if semicolon else Finding(name, state, sentence)


def clock(name: str, ahead: float, whose: str, most: float) -> Finding:
    """A line about another clock.

    Args:
        name: What was looked at.
        ahead: Seconds it is ahead of this machine's, at least; negative: behind.
        whose: Its owner.
        most: Seconds that do no harm.
    """
    if abs(ahead) <= most:
        return ok(name, f"agrees with {whose} within {max(1, abs(ahead)):.0f} s")
    direction = "ahead of" if ahead > 0 else "behind"
    found = f"the clock of {whose} is {abs(ahead):.0f} s {direction} this machine's"
    mend = "timedatectl set-ntp true (on the machine whose clock is wrong)"
    # S3 refuses what is signed a quarter of an hour off
    return (fail if abs(ahead) >= 900 else warn)(name, found, mend)


def size(count: float) -> str:
    """Bytes for people, as in ``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def timed(act: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.monotonic()
    act()
    return time.monotonic() - start
