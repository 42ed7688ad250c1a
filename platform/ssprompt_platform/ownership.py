"""One process runs a study at a time: a lock on its folder that the kernel frees if it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import StudyFolder

_ATTEMPTS = 10
_PAUSE_SECONDS = 0.05


@contextmanager
def owned(folder: StudyFolder) -> Iterator[StudyFolder]:
    """Hold a study while the block runs; its folder is made if it is not there.

    Args:
        folder: Of the study. Where its id was made from name and time and another process took
            the same one meanwhile, the next free id is taken.

    Yields:
        The folder that is held.

    Raises:
        UserError: Another process runs the study; the message names it.
    """
    handle = _acquire(folder)
    while folder.made and (handle is None or folder.record.exists()):
        if handle is not None:
            os.close(handle)
        folder = next_free(folder)
        handle = _acquire(folder)
    if handle is None:
        raise UserError(
            f"study {folder.study_id} is being run by {_told(holder(folder))}; wait for its end, "
            "or stop it, or choose another study.id"
        )
    try:
        _sign(handle)
        yield StudyFolder(folder.root, folder.study_id)
    finally:
        # the file stays where there is a study, so that no other process holds another one
        os.ftruncate(handle, 0)
        if not any(path != folder.lock for path in folder.path.iterdir()):
            folder.lock.unlink()
            with suppress(OSError):
                folder.path.rmdir()
        os.close(handle)


def holder(folder: StudyFolder) -> dict[str, Any] | None:
    """Who runs the study: ``host``, ``pid`` and ``since``, as far as known; None: nobody."""
    try:
        handle = os.open(folder.lock, os.O_RDONLY)
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


def next_free(folder: StudyFolder) -> StudyFolder:
    """The first id after this one that no folder has: ``x``, then ``x-2``, ``x-3``, ..."""
    number, free = 1, folder
    while free.path.exists():
        number += 1
        free = StudyFolder(folder.root, f"{folder.study_id}-{number}", made=folder.made)
    return free


def _acquire(folder: StudyFolder) -> int | None:
    """A descriptor of the lock file, held; None where another process holds it."""
    for _ in range(_ATTEMPTS):
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o644)
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
        if _same_file(handle, folder):
            return handle
        os.close(handle)
    return None


def _same_file(handle: int, folder: StudyFolder) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.lock.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner).encode(), 0)


def _told(owner: dict[str, Any] | None) -> str:
    if not owner:
        return "another process"
    return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
