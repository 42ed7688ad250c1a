"""One process runs a study at a time: a lock on its folder, or a lease in its bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssprompt_core.errors import UserError
from ssprompt_platform.ownership import flock, lease
from ssprompt_platform.ownership.errors import LostOwnershipError
from ssprompt_platform.ownership.flock import FileLock
from ssprompt_platform.ownership.lease import TERMS, Lease, Terms
from ssprompt_platform.ownership.owner import this_process, told
from ssprompt_platform.storage import StudyFolder

__all__ = ["TERMS", "LostOwnershipError", "Terms", "holder", "lost", "next_free", "owned"]

_held: dict[str, FileLock | Lease] = {}
"""What this process holds, by the study's place."""


@contextmanager
def owned(
    folder: StudyFolder, say: Callable[[str], None] = lambda _: None, terms: Terms = TERMS
) -> Iterator[StudyFolder]:
    """Hold a study while the block runs; its folder is made if it is not there.

    Where the study lies in a bucket and another process takes it meanwhile, the block is
    interrupted as by Ctrl-C, and whatever it raises then is raised as the loss that it is.

    Args:
        folder: Of the study. Where its id was made from name and time and another process took
            the same one meanwhile, the next free id is taken.
        say: Told, in one sentence, where the study of another host that may have died is waited
            for, and where the study could not be given back.
        terms: How a study in a bucket is held.

    Yields:
        The folder that is held.

    Raises:
        UserError: Another process runs the study; the message names it.
        LostOwnershipError: Another process took the study while the block ran.
        StorageError: The bucket did not answer, or refused.
    """
    held = _acquire(folder, say, terms)
    while folder.made and (held is None or folder.record.is_file()):
        if held is not None:
            held.release()
        folder = next_free(folder)
        held = _acquire(folder, say, terms)
    if held is None:
        raise UserError(
            f"study {folder.study_id} is being run by {told(holder(folder, terms))}; wait for its "
            "end, or stop it, or choose another study.id"
        )
    place = str(folder.path)
    try:
        try:
            _held[place] = held
            held.keep()
            yield StudyFolder(folder.root, folder.study_id)
        finally:
            del _held[place]
            held.release()
    except BaseException as error:
        if held.loss is None:
            raise
        raise LostOwnershipError(held.loss) from error
    if held.loss is not None:
        raise LostOwnershipError(held.loss)


def lost(folder: StudyFolder) -> bool:
    """Whether another process took a study that this one runs; true too where it runs none."""
    held = _held.get(str(folder.path))
    return held is None or held.loss is not None


def holder(folder: StudyFolder, terms: Terms = TERMS) -> dict[str, Any] | None:
    """Who runs the study: ``host``, ``pid`` and ``since``, as far as known; None: nobody.

    Raises:
        StorageError: The bucket did not answer, or refused.
    """
    place = folder.lock
    return flock.holder(place) if isinstance(place, Path) else lease.holder(place, terms)


def next_free(folder: StudyFolder) -> StudyFolder:
    """The first id after this one that no folder has: ``x``, then ``x-2``, ``x-3``, ..."""
    number, free = 1, folder
    while free.path.exists():
        number += 1
        free = StudyFolder(folder.root, f"{folder.study_id}-{number}", made=folder.made)
    return free


def _acquire(
    folder: StudyFolder, say: Callable[[str], None], terms: Terms
) -> FileLock | Lease | None:
    place = folder.lock
    if isinstance(place, Path):
        return flock.acquire(place, this_process())
    # an id that was just made has an owner that was just there, or is free
    return lease.acquire(place, this_process(), wait=not folder.made, say=say, terms=terms)
