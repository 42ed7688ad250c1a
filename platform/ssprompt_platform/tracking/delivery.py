"""Tells MLflow what a journal holds: in order, in batches, from where it was told last."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssprompt_platform.tracking.experiment import experiment_id
from ssprompt_platform.tracking.faults import kind_of, why
from ssprompt_platform.tracking.files import KINDS as FILES
from ssprompt_platform.tracking.files import Files
from ssprompt_platform.tracking.journal import NAME, Line, header, of_runs, read, settle
from ssprompt_platform.tracking.runs import Identity, Runs
from ssprompt_platform.tracking.state import Lane, Sent
from ssprompt_platform.tracking.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFUSED = "refused.jsonl"
VALUES = frozenset({"session", "run", "metrics", "tags", "end"})
_HEADER = "journal"
_LOCK = ".sending"
_MOST = 5000
"""Events that are read together. Where MLflow is slower than the study, more wait, and a run's go
in one request."""
_MOST_RUNS = 128
"""Runs that are told together: until all of them are, nothing counts as told."""
_TRIES = 8
"""Of an event of which MLflow says neither that it is wrong nor that it may work later."""
_LONGEST_PAUSE = 30.0
_HURRIED_PAUSE = 1.0
_BUSY_PAUSE = 0.3


class BusyError(Exception):
    """Another process tells MLflow what this journal holds."""


@dataclass
class _Way:
    """One lane: where it stands, and how its last attempts went.

    Attributes:
        lane: Its name.
        position: Bytes of the journal that are told.
        single: Up to here events go one by one, since one of them was refused.
        tries: Attempts of the event at ``position`` that failed for no known reason.
        failures: Attempts since it worked last.
        again_at: When to try next, on the monotonic clock.
        fault: Why it waits; empty: it does not.
        down: Whether that is an outage; else the event itself may be wrong.
    """

    lane: Lane
    position: int = 0
    single: int = 0
    tries: int = 0
    failures: int = 0
    again_at: float = 0.0
    fault: str = ""
    down: bool = False


class Delivery:
    """Delivers one journal to one MLflow. Used by one thread; one process at a time can.

    Runs, parameters, tags and metrics go before files, which wait for nothing else and hold nothing
    up: where a file cannot be stored, metrics still arrive. What MLflow refuses for good is set
    aside into ``refused.jsonl``, with the reason, and the rest goes on.

    Args:
        folder: Of the journal.
        target: The MLflow.
        study_id: Of the study.
        new_from: Position from which on events are of this process; None: all are of others.
    """

    def __init__(
        self,
        folder: Path,
        target: Target,
        study_id: str,
        new_from: int | None = None,
    ) -> None:
        self._folder, self.target, self._study_id = folder, target, study_id
        self._journal = folder / NAME
        self._new_from = new_from
        self._refusal: Callable[[str, str], None] = lambda what, reason: None
        self._values, self._files = _Way("values"), _Way("files")
        self._ahead: list[Line] = []
        self._lock: int | None = None
        self._sent: Sent | None = None
        self._runs: Runs | None = None
        self._store: Files | None = None
        self._at = 0
        self.client: MlflowClient | None = None
        self.experiment = ""
        self.hurry = False
        self.busy = False

    def on_refused(self, told: Callable[[str, str], None]) -> None:
        """Tell of each event that is set aside: what it is, and why."""
        self._refusal = told

    def work(self) -> bool:
        """Take the next step of each lane that is not waiting.

        Returns:
            Whether anything was told; where nothing was, there is nothing, or :attr:`fault` and
            :attr:`pause` say why not and for how long.
        """
        values, files = self._values, self._files
        if time.monotonic() < values.again_at:
            return False
        try:
            self._ready()
            told = self._tell_values()
        except BusyError as error:
            values.fault, values.again_at = str(error), time.monotonic() + _BUSY_PAUSE
            self.busy = True
            return False
        except Exception as error:  # noqa: BLE001  (its kind decides)
            return self._failed(values, error)
        _worked(values)
        self.busy = False
        if time.monotonic() < files.again_at:
            return told
        try:
            told |= self._tell_files()
        except Exception as error:  # noqa: BLE001
            return self._failed(files, error) or told
        _worked(files)
        return told

    @property
    def fault(self) -> str:
        """Why something waits that could be told; empty: nothing does."""
        return self._values.fault or self._files.fault

    @property
    def down(self) -> str:
        """What does not answer: MLflow, or the place of its files; empty where all do."""
        if self._values.down:
            return "MLflow"
        return "the place of MLflow's files" if self._files.down else ""

    @property
    def pause(self) -> float:
        """Seconds until the next step makes sense; 0: at once."""
        ways = [self._values] if self._values.fault else [self._values, self._files]
        waits = [way.again_at - time.monotonic() for way in ways if way.fault]
        return max(0.0, min(waits, default=0.0))

    @property
    def told(self) -> tuple[int, int]:
        """Positions of both lanes: any change is progress."""
        return self._values.position, self._files.position

    @property
    def done(self) -> bool:
        """Whether everything in the journal is told."""
        return not self._journal.is_file() or not any(read(self._journal, p, 1) for p in self.told)

    def run_id(self, key: str) -> str | None:
        """Id of a run in MLflow, if it was made."""
        return None if self._sent is None else self._sent.run(key)

    def close_left_open(self) -> list[str]:
        """Mark runs without an end as killed, where no process runs the study.

        Returns:
            Keys of those that were marked.

        Raises:
            Exception: Whatever MLflow raised.
        """
        self._ready()
        assert self._runs is not None
        return self._runs.close_left_open(self._at or time.time_ns() // 1_000_000)

    def close(self) -> None:
        """Let others deliver."""
        if self._sent is not None:
            self._sent.close()
            self._sent = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _ready(self) -> None:
        """Lock, memory and connection; each where it is not there yet."""
        if self._lock is None:
            self._lock = _locked(self._folder / _LOCK)
        if self._sent is None:
            sent = Sent(self._folder / f"sent-{self.target.mark}.db")
            self._recall(sent)
            self._sent = sent
        if self._runs is None:
            self.target.reachable()
            client = self.target.connect()
            self.experiment = experiment_id(client, self.target)
            first = header(self._journal) or {}
            identity = Identity(self._study_id, str(first.get("uid")), str(first.get("id")))
            new_from = self._journal.stat().st_size if self._new_from is None else self._new_from
            runs = Runs(client, self.experiment, identity, self._sent, new_from)
            runs.begin()
            self._recall(self._sent)
            self.client, self._runs = client, runs
            self._store = Files(client, self.experiment, runs, self._folder)
        elif self._values.failures:
            # a closed port is noticed before MLflow's client gets patient with it
            self.target.reachable()

    def _recall(self, sent: Sent) -> None:
        size = self._journal.stat().st_size
        for way in (self._values, self._files):
            way.position = sent.position(way.lane)
            if way.position > size:  # the journal is another one
                sent.forget()
                way.position = 0
        self._at = int(sent.fact("at") or 0)

    def _tell_values(self) -> bool:
        assert self._sent is not None
        way = self._values
        lines = self._next(way)
        if not lines:
            return False
        if any(line.event and line.event["event"] == "run" for line in lines):
            # after a power cut, too, the journal names every run that was made
            settle(self._journal)
        self._apply(lines)
        self._at = max([self._at, *(line.event["at"] for line in lines if line.event)])
        self._sent.advance(way.lane, lines[-1].end, self._at)
        way.position = lines[-1].end
        return True

    def _apply(self, lines: Sequence[Line]) -> None:
        """Events of one run together, run by run; a new session comes after all before it."""
        assert self._runs is not None
        groups: dict[str, list[tuple[dict[str, Any], int]]] = {}
        last = self._at
        for line in lines:
            event = line.event
            if event is None:
                raise ValueError("it is not readable")
            if event["event"] == "session":
                self._tell(groups)
                groups = {}
                self._runs.close_left_open(last or int(event["at"]))
            elif event["event"] in VALUES:
                groups.setdefault(event["key"], []).append((event, line.begin))
            elif event["event"] not in FILES and event["event"] != _HEADER:
                raise ValueError(f"an event of the kind '{event['event']}' is not known")
            last = max(last, int(event["at"]))
        self._tell(groups)

    def _tell(self, groups: dict[str, list[tuple[dict[str, Any], int]]]) -> None:
        assert self._runs is not None
        for key, events in groups.items():
            self._runs.apply(key, events)

    def _tell_files(self) -> bool:
        """The next file, or past all lines that are none; never ahead of the values."""
        assert self._sent is not None
        assert self._store is not None
        way, end = self._files, self._values.position
        if not self._ahead or self._ahead[0].begin != way.position:
            self._ahead = self._next(way)
        lines = [line for line in self._ahead if line.end <= end]
        if not lines:
            return False
        for number, line in enumerate(lines):
            event = line.event
            if event is not None and event["event"] in FILES:
                self._store.apply(event)
                self._sent.advance(way.lane, line.end, self._at)
                way.position = line.end
                # what was read is not read again for each of its files
                self._ahead = self._ahead[number + 1 :]
                return True
        self._sent.advance(way.lane, lines[-1].end, self._at)
        way.position = lines[-1].end
        return True

    def _next(self, way: _Way) -> list[Line]:
        if way.position < way.single:
            return read(self._journal, way.position, 1)
        lines = read(self._journal, way.position, _MOST)
        return lines if way is self._files else of_runs(lines, _MOST_RUNS)

    def _failed(self, way: _Way, error: Exception) -> bool:
        """Wait, or set the event aside; returns whether the lane got on by that."""
        kind, reason = kind_of(error), why(error, self.target)
        # what looks like a refusal is none where MLflow does not answer otherwise
        way.down = kind == "down" or self._runs is None or not self._answers()
        if not way.down:
            lines = self._suspects(way)
            if len(lines) > 1:
                # one of them: find out which
                way.single, way.tries = lines[-1].end, 0
                return True
            way.tries += 1
            if lines and (kind == "refused" or way.tries >= _TRIES):
                try:
                    self._set_aside(way, lines[0], reason)
                    return True
                except (OSError, sqlite3.Error) as full:
                    reason = str(full)
        way.fault = reason
        pause = min(2.0**way.failures, _HURRIED_PAUSE if self.hurry else _LONGEST_PAUSE)
        way.failures += 1
        way.again_at = time.monotonic() + pause
        return False

    def _suspects(self, way: _Way) -> list[Line]:
        """The lines that were being told."""
        lines = self._next(way)
        if way is self._values:
            return lines
        return [line for line in lines if line.event and line.event["event"] in FILES][:1]

    def _answers(self) -> bool:
        """Whether MLflow answers what it always can."""
        try:
            self.target.reachable()
            if self.client is not None:
                self.client.get_experiment(self.experiment)
        except Exception:  # noqa: BLE001  (whatever it is: no answer)
            return False
        return True

    def _set_aside(self, way: _Way, line: Line, reason: str) -> None:
        assert self._sent is not None
        event: Any = line.event if line.event is not None else line.text
        record = {"at": time.time_ns() // 1_000_000, "reason": reason, "event": event}
        with (self._folder / REFUSED).open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._sent.advance(way.lane, line.end, self._at)
        way.position, way.tries = line.end, 0
        self._refusal(_what(event), reason)

    def hasten(self) -> None:
        """Try again soon: the study waits for its end."""
        self.hurry = True
        soon = time.monotonic() + _HURRIED_PAUSE
        for way in (self._values, self._files):
            way.again_at = min(way.again_at, soon)


def waiting(journal: Path, values: int, files: int) -> int:
    """How many events were not told: all behind ``values``, and files behind ``files``."""
    found, end, most = 0, min(values, files), 1000
    while lines := read(journal, end, most):
        found += sum(
            line.begin >= values or (line.event or {}).get("event") in FILES for line in lines
        )
        end = lines[-1].end
    return found


def _worked(way: _Way) -> None:
    way.failures, way.tries, way.again_at = 0, 0, 0.0
    way.fault, way.down = "", False


def _what(event: Any) -> str:
    if not isinstance(event, dict):
        return "a line"
    kinds = {"run": "the parameters", "end": "the end", "file": "a file", "text": "a file"}
    kind = kinds.get(event["event"], f"the {event['event']}")
    return f"{kind} of the run '{event.get('key', '')}'"


def _locked(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BusyError("another process is delivering this journal") from None
    return handle
