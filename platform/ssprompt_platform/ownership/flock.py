"""The lock of a study on a disk: a file's lock, which the kernel frees if its owner dies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_ATTEMPTS = 10
_PAUSE_SECONDS = 0.05


class FileLock:
    """The held lock of a study's folder.

    Args:
        handle: Descriptor of the lock file.
        path: Of the lock file.
    """

    def __init__(self, handle: int, path: Path) -> None:
        self._handle, self._path = handle, path

    @property
    def loss(self) -> str | None:
        """Why the study is lost; the kernel takes a lock from nobody."""
        return None

    def keep(self) -> None:
        """Nothing: the kernel keeps it."""

    def release(self) -> None:
        """Free the study; its folder goes where the study never began."""
        # the file stays where there is a study, so that no other process holds another one
        os.ftruncate(self._handle, 0)
        if not any(path != self._path for path in self._path.parent.iterdir()):
            self._path.unlink()
            with suppress(OSError):
                self._path.parent.rmdir()
        os.close(self._handle)


def acquire(path: Path, owner: Mapping[str, Any]) -> FileLock | None:
    """Hold a lock file, which is made with its folder; None where another process holds it.

    Args:
        path: Of the lock file.
        owner: Who holds it: what :func:`holder` tells others.
    """
    for _ in range(_ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder went away with its last owner
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            # someone may only have looked who holds it
            time.sleep(_PAUSE_SECONDS)
            continue
        # its last owner may have removed the file between opening and locking
        if _same_file(handle, path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(dict(owner)).encode(), 0)
            return FileLock(handle, path)
        os.close(handle)
    return None


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock file, as far as known; None: nobody."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(ValueError):
            return dict(json.loads(os.pread(handle, 4096, 0)))
        return {}
    finally:
        os.close(handle)
    return None


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
