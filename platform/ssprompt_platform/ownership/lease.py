"""The lease of a study in a bucket: held by whoever made its newest generation, while it beats.

Every owner makes the next generation's object under the condition that there is none, which one of
several at once can do. It rewrites its object at every beat; one that was not rewritten for the
lease's length has run out, by the server's own clocks, and the next generation may be made. An
owner that finds a newer generation than its own has lost the study. Numbers are never used again
while there is a study, so that a request that was long under way cannot win against a later owner.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ssprompt_platform.ownership.owner import lives_here, process_space, told
from ssprompt_platform.storage import S3Path, StorageError

if TYPE_CHECKING:
    from ssprompt_platform.ownership.lease_objects import LeaseObjects, Look

_ATTEMPTS, _BEAT_ATTEMPTS = 5, 2
_SOON = 0.2
"""Part of a beat after which a beat that failed is tried again."""
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Terms:
    """How a study in a bucket is held.

    Attributes:
        length: Seconds without a sign of life after which another process may take the study.
        beat: Seconds between two signs of life.
    """

    length: float = 60.0
    beat: float = 10.0


TERMS = Terms()


class Lease:
    """A study that this process holds.

    Args:
        lock: Prefix of the study's leases, directly below the study's own.
        generation: That this process made.
        content: Of its object.
        etag: Of its object.
        terms: How it is held.
        say: Told where it could not be given back.
    """

    def __init__(
        self,
        lock: S3Path,
        generation: int,
        content: Mapping[str, Any],
        etag: str,
        terms: Terms,
        say: Callable[[str], None],
    ) -> None:
        self._lock, self._generation, self._terms, self._say = lock, generation, terms, say
        self._content, self._etag = dict(content), etag
        self._objects = _objects_of(lock, _BEAT_ATTEMPTS)
        self._closed, self._signals = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._interrupts = False
        self._loss: str | None = None

    @property
    def loss(self) -> str | None:
        """Why the study is lost, in one sentence; None: it is held."""
        return self._loss

    def keep(self) -> None:
        """Give signs of life from now on, in a thread; where the study is lost, interrupt.

        Called in the main thread, that one gets a SIGINT, as by Ctrl-C; a process that ignores it
        a SIGTERM. It gets another one after each length of the lease until :meth:`release`.
        """
        self._interrupts = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._run, name="study-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the study back; nothing stays in the bucket where it never began."""
        with self._signals:
            self._closed.set()
        if self._thread is not None:
            self._thread.join()
        if self._loss is not None:
            return
        try:
            if self._objects.beside():
                self._objects.write(self._generation, None)
            else:
                self._objects.remove(self._generation)
        except StorageError as error:
            self._say(
                f"study {self._lock.parent.name} could not be given back ({error}); to other hosts "
                f"it seems to be run for {self._terms.length:g} s more"
            )

    def _run(self) -> None:
        pause = self._terms.beat
        while not self._closed.wait(pause):
            try:
                if self._loss is None:
                    self._beat()
                pause = self._terms.beat
            except StorageError:
                # nobody can take it meanwhile either
                pause = _SOON * self._terms.beat
            if self._loss is not None:
                self._interrupt()
                pause = self._terms.length

    def _beat(self) -> None:
        """Look for a newer owner; without one, give a sign of life."""
        look, found = self._objects.look(), None
        ours = look.is_of(self._generation, self._etag)
        if not ours and look.generation >= self._generation:
            found = self._objects.read(look.generation)
            if found is None:  # it is gone again: the next look will tell
                return
            # the answer to a beat may have been lost, though it was written
            ours = found[0].get("token") == self._content["token"]
        if ours:
            self._content["beat"] += 1
            self._etag = self._objects.write(self._generation, self._content)
        elif found is None or look.released:
            self._loss = (
                f"study {self._lock.parent.name} was given up: this process's lease in "
                f"{self._lock} is gone, so that any process may run it"
            )
        else:
            self._loss = (
                f"study {self._lock.parent.name} was taken over by {told(found[0])}, and goes on "
                f"there; this process had shown no sign of life for {self._terms.length:g} s"
            )

    def _interrupt(self) -> None:
        with self._signals:
            if self._closed.is_set() or not self._interrupts:
                return
            for number in (signal.SIGINT, signal.SIGTERM):
                # one that is ignored would interrupt nothing
                if callable(signal.getsignal(number)):
                    main = threading.main_thread().ident
                    assert main is not None
                    signal.pthread_kill(main, number)
                    return


def acquire(
    lock: S3Path,
    owner: Mapping[str, Any],
    *,
    wait: bool,
    say: Callable[[str], None],
    terms: Terms = TERMS,
) -> Lease | None:
    """Hold a study in a bucket; None where another process holds it.

    A lease whose process has ended on this host is taken over at once. That of another host, which
    may have died, is watched until it shows a sign of life or runs out.

    Args:
        lock: Prefix of the study's leases, directly below the study's own.
        owner: Who holds it: what :func:`holder` tells others.
        wait: Whether to watch another host's lease; else it counts as held.
        say: Told once that a lease is watched.
        terms: How the study is held.

    Raises:
        StorageError: The storage did not answer, or refused.
    """
    objects = _objects_of(lock, _ATTEMPTS)
    content = {**owner, "space": process_space(), "token": uuid.uuid4().hex, "beat": 0}
    seen: Look | None = None
    while True:
        look = objects.look()
        if not look.released:
            found = objects.read(look.generation)
            if found is None:  # it was given back or taken over meanwhile
                continue
            state = _judge(look, found[0], seen, terms)
            if state == "held" or (state == "unknown" and not wait):
                return None
            if state == "unknown":
                if seen is None:
                    say(_watched(lock.parent.name, found[0], look, terms))
                seen = look
                # a storage that was away could not be told of its owner's life either
                time.sleep(terms.beat / 2 if look.at_once else 2 * terms.beat)
                continue
        etag = _claim(objects, look.generation + 1, content)
        if etag is not None:
            return Lease(lock, look.generation + 1, content, etag, terms, say)
        # another one was faster; where it lives, its lease is another one than was seen
        seen = seen or look
        time.sleep(_PAUSE_SECONDS)


def holder(lock: S3Path, terms: Terms = TERMS) -> dict[str, Any] | None:
    """Who holds a study in a bucket, as far as known; None: nobody, or a lease that ran out.

    Raises:
        StorageError: The storage did not answer, or refused.
    """
    objects = _objects_of(lock, _ATTEMPTS)
    while not (look := objects.look()).released:
        found = objects.read(look.generation)
        if found is None:  # it was given back or taken over meanwhile
            continue
        content = found[0]
        if lives_here(content) is False or _ran_out(look, terms):
            return None
        return {name: content[name] for name in ("host", "pid", "since") if name in content}
    return None


def _objects_of(lock: S3Path, attempts: int) -> LeaseObjects:
    # here, since this module is known to studies on a disk, too, which need no client of S3
    from ssprompt_platform.ownership.lease_objects import LeaseObjects

    return LeaseObjects(lock, attempts)


def _claim(objects: LeaseObjects, generation: int, content: Mapping[str, Any]) -> str | None:
    """Make a generation; its ETag, or None where another process was faster."""
    etag = objects.create(generation, content)
    if etag is None:
        # the answer to the request that made it may have been lost, and the next one refused
        found = objects.read(generation)
        if found is None or found[0].get("token") != content["token"]:
            return None
        etag = found[1]
    look = objects.look()
    if not look.is_of(generation, etag):
        if look.generation > generation:  # the request was so long under way that others came
            objects.remove(generation)
        return None
    for older in look.older:
        objects.remove(older)
    return etag


def _judge(
    look: Look, owner: Mapping[str, Any], seen: Look | None, terms: Terms
) -> Literal["free", "held", "unknown"]:
    """What is known of a lease's owner, who did not give it back.

    Args:
        look: At the lease.
        owner: Content of its object.
        seen: What was seen before, if anything was.
        terms: How the study is held.
    """
    lives = lives_here(owner)
    if lives is False:
        return "free"
    if seen is not None and not look.is_of(seen.generation, seen.etag):
        return "held"
    if _ran_out(look, terms):
        return "free" if look.at_once else "unknown"
    return "held" if lives else "unknown"


def _ran_out(look: Look, terms: Terms) -> bool:
    return look.age >= terms.length


def _watched(study: str, owner: Mapping[str, Any], look: Look, terms: Terms) -> str:
    who = "another process"
    if {"host", "pid"} <= owner.keys():
        who = f"process {owner['pid']} on host {owner['host']}"
    # two clocks of one server may be apart by a part of a second
    age = min(max(0.0, look.age), terms.length)
    return (
        f"study {study} was run by {who}, last seen {age:.0f} s ago; taking it over in "
        f"{terms.length - age:.0f} s unless it shows a sign of life"
    )
