"""One file of a folder that is written, renamed, locked, mapped and deleted."""

from __future__ import annotations

import errno
import fcntl
import getpass
import mmap
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor.probes import PROBE, PROBE_BYTES

LEAST_FREE = 64 * 2**20
"""Bytes; a study cannot even begin with less."""
_FOUND = {
    errno.EACCES: "user {user} may not write there",
    errno.EPERM: "user {user} may not write there",
    errno.EROFS: "it is on a read-only file system",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "the quota of user {user} is used up",
    errno.EFBIG: "files may not grow to a mebibyte there (ulimit -f)",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "a part of the path is too long",
    errno.EIO: "its disk or file server fails (input/output error)",
    errno.ESTALE: "its file server has lost it (stale handle)",
    errno.ELOOP: "the path is a loop of links",
}
_MEND = {
    errno.EACCES: "choose another folder, or change its owner or mode (chown, chmod)",
    errno.EPERM: "choose another folder, or change its owner or mode (chown, chmod)",
    errno.EROFS: "choose another folder, or mount it for writing",
    errno.ENOSPC: "free space there, or choose a folder on another disk",
    errno.EDQUOT: "free space there, or choose a folder on another disk",
    errno.EFBIG: "lift the limit by 'ulimit -f unlimited'",
    errno.EIO: "look at the disk (dmesg) or the file server, or choose another folder",
    errno.ESTALE: "mount it again, or choose another folder",
}
_OTHERWISE = "choose another folder"


def probe_folder(folder: Path, setting: str) -> None:
    """Do with a folder what a study does; nothing stays, and no folder is made.

    Args:
        folder: Need not be there: then the folder it would be made in is tried.
        setting: What names the folder, as in ``storage.root``.

    Raises:
        UserError: What does not work, in one sentence.
    """
    try:
        found = existing(folder)
        _check_room(found, folder, setting)
        _use(found / f"{PROBE}{secrets.token_hex(8)}", folder, setting)
    except OSError as error:
        raise UserError(sentence_of_file(error, folder, setting)) from None


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def sentence_of_file(error: OSError, place: Path, setting: str) -> str:
    """What is wrong with a folder of this machine.

    Args:
        error: What the system said.
        place: The folder that was to be used.
        setting: What names it.
    """
    number = error.errno or 0
    found = _FOUND.get(number, f"{error.strerror or type(error).__name__}").format(user=_user())
    return f"{setting}: {place} cannot be used: {found}; {_MEND.get(number, _OTHERWISE)}"


def _check_room(found: Path, folder: Path, setting: str) -> None:
    total, _, free = shutil.disk_usage(found)
    # what is no disk has no size at all
    if total and free < LEAST_FREE:
        raise UserError(
            f"{setting}: the disk of {folder} is full ({free / 2**20:.0f} MiB free, "
            f"{LEAST_FREE / 2**20:.0f} needed to begin); free space there, or choose a folder on "
            "another disk"
        )


def _use(probe: Path, folder: Path, setting: str) -> None:
    content, new = os.urandom(PROBE_BYTES), probe.with_suffix(".new")
    try:
        with new.open("xb") as file:
            file.write(content)
            file.flush()
            # a network file system may tell of a full disk only now
            os.fsync(file.fileno())
        new.replace(probe)
        _read(probe, content, folder, setting)
        probe.unlink()
    finally:
        for left in (new, probe):
            # what keeps it from being deleted is told already
            with suppress(OSError):
                left.unlink()


def _read(probe: Path, content: bytes, folder: Path, setting: str) -> None:
    with probe.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{setting}: the file system of {folder} has no file locks ({error.strerror}), by "
                "which one process owns a study; mount it with locks, or choose another folder"
            ) from None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            same = mapped[:] == content
    if not same:
        raise UserError(
            f"{setting}: {folder} gives back other bytes than were written; its disk or file "
            "server is not to be trusted: choose another folder"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # a container's user may have no name
        return str(os.getuid())
