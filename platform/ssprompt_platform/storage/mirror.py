"""A file that must lie on this machine's disk, copied to a bucket while it is written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ssprompt_platform.storage.errors import StorageError
from ssprompt_platform.storage.places import Place, read_json, write_json
from ssprompt_platform.storage.s3 import S3Path

_SQLITE = b"SQLite format 3\0"
_BESIDE = ("-wal", "-shm", "-journal")
"""What sqlite keeps beside a database, and would take for a part of another one."""
_PAUSE_SECONDS = 0.01
_NAME, _NO_COPY = "mirror", "none"


class Mirror:
    """Keeps a copy of a growing file in a bucket; does nothing where the copy's place is local.

    The copy is some seconds old when its machine dies. A study loses nothing by that: results of
    trials lie in the bucket on their own, and what is proposed next depends on them alone. So the
    bucket's copy is what a run begins with, on this machine or on another one.

    Args:
        local: A sqlite database, or a file that is only appended to (whose copy may end in the
            middle of a line).
        place: Of the copy; only the study's owner writes it.
        every: Seconds between two copies at least.
        lineage: Names what the file belongs to: one of another lineage is not taken up.
        allowed: Asked before each copy; a study's owner who lost it must not touch the new one's.
    """

    def __init__(
        self,
        local: Path,
        place: Place,
        every: float = 5.0,
        *,
        lineage: str = "",
        allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._local, self._place = local, place if isinstance(place, S3Path) else None
        self._every, self._lineage, self._allowed = every, lineage, allowed
        self._changed, self._closing = threading.Event(), threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_failure: StorageError | None = None
        self._next = uuid.uuid4().hex

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StorageError:
            # whatever ended the block is what must be told
            if error is None:
                raise

    def fetch(self) -> None:
        """Begin with the bucket's copy, before anything opens the file.

        A local file stays if it was made from the very copy that lies in the bucket, as it does
        where this machine wrote last: it is that copy and what came after. Any other one goes, also
        where there is no copy at all.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        if self._place is None:
            return
        copy = self._copy_name(self._place)
        known = self._known()
        if self._local.is_file() and copy in known["copies"] and known["lineage"] == self._lineage:
            return
        self._sidecar.unlink(missing_ok=True)
        for name in (self._local.name, *(self._local.name + end for end in _BESIDE)):
            self._local.with_name(name).unlink(missing_ok=True)
        self._local.parent.mkdir(parents=True, exist_ok=True)
        if copy != _NO_COPY:
            with tempfile.TemporaryDirectory(prefix=".mirror-", dir=self._local.parent) as folder:
                whole = Path(folder) / self._local.name
                self._place.download(whole)
                whole.replace(self._local)
        self._note(copy)

    def touch(self) -> None:
        """Say that the file changed; it is copied later, in a thread."""
        if self._place is None:
            return
        self._changed.set()
        with self._starting:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._run, name=f"mirror-{self._local.name}", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Copy the last state.

        Raises:
            StorageError: It could not be copied.
        """
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._last_failure is not None:  # it was tried long enough
            raise self._last_failure
        if self._changed.is_set():
            self._copy()

    def _run(self) -> None:
        while not self._closing.wait(self._every):
            if self._changed.is_set():
                try:
                    self._copy()
                except StorageError as error:
                    if self._closing.is_set():
                        self._last_failure = error

    def _copy(self) -> None:
        """Copy the file, if it is still allowed; what changes meanwhile is copied the next time."""
        self._changed.clear()
        if self._place is None or not self._allowed() or not self._local.is_file():
            return
        try:
            with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
                whole = Path(folder) / self._local.name
                _copied(self._local, whole)
                # noted before and after: killed between, the file is known to be made from either
                self._note(*self._known()["copies"], self._next)
                self._place.upload(whole, {_NAME: self._next})
            self._note(self._next)
        except (OSError, sqlite3.Error) as error:
            self._changed.set()
            raise StorageError(f"{self._local} could not be copied: {error}") from error
        except StorageError:
            self._changed.set()
            raise
        self._next = uuid.uuid4().hex

    @property
    def _sidecar(self) -> Path:
        return self._local.with_name(f"{self._local.name}.uploaded")

    def _known(self) -> dict[str, Any]:
        """Names of the copies that the local file may be made from, and its lineage."""
        try:
            return dict(read_json(self._sidecar))
        except (FileNotFoundError, ValueError):
            return {"copies": [], "lineage": None}

    def _note(self, *copies: str) -> None:
        names = list(dict.fromkeys(copies))
        write_json(self._sidecar, {"copies": names, "lineage": self._lineage})

    def _copy_name(self, place: S3Path) -> str:
        try:
            head = place.head()
        except FileNotFoundError:
            return _NO_COPY
        # one that another program put there bears no name
        return str(head.get("Metadata", {}).get(_NAME) or head["ETag"])


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        database = file.read(len(_SQLITE)) == _SQLITE
    if not database:
        shutil.copyfile(source, target)
        return
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        # one moment's state, also while others write; the pause is for where they lock it just now
        old.backup(new, sleep=_PAUSE_SECONDS)
