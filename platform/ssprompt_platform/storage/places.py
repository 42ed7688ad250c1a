"""Reads and writes files and objects alike: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssprompt_platform.storage.clients import arrow_filesystem
from ssprompt_platform.storage.errors import StorageError
from ssprompt_platform.storage.s3 import S3Path

_DISK = {
    errno.ENOSPC: "the disk is full; make room, or give a storage.root on another disk",
    errno.EDQUOT: "the quota is used up; make room, or give a storage.root on another disk",
    errno.EROFS: "the file system is read-only; give a storage.root that can be written",
    errno.EACCES: "permission is denied; give a storage.root that can be written",
    errno.EIO: "the disk reports an error",
}
Place = Path | S3Path
"""A file or folder of this machine, or an object or prefix of a bucket."""


def write_whole(place: Place, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, then put it in place at once.

    Raises:
        StorageError: The disk is full or not to be written, or a bucket did not answer or refused.
    """
    if isinstance(place, S3Path):
        with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
            temporary = Path(folder) / f"whole{place.suffix}"
            write(temporary)
            place.upload(temporary)
        return
    with _disk_told(place):
        _write_file(place, write)


def _write_file(place: Path, write: Callable[[Path], object]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{place.stem[:100]}-", suffix=place.suffix, dir=place.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _disk_told(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = _DISK.get(error.errno or 0)
        if why is None:
            raise
        raise StorageError(f"{place} cannot be written: {why}") from error


def write_bytes(place: Place, content: bytes) -> None:
    """Write bytes whole or not at all."""
    if isinstance(place, S3Path):
        place.write_bytes(content)
    else:
        write_whole(place, lambda temporary: temporary.write_bytes(content))


def write_text(place: Place, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(place, text.encode())


def write_json(place: Place, record: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(place, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_json(place: Place) -> Any:
    """Read what :func:`write_json` wrote.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no JSON.
    """
    return json.loads(place.read_bytes())


def remove(place: Place) -> None:
    """Remove a file or object; one that is not there is fine."""
    place.unlink(missing_ok=True)


def remove_tree(place: Place) -> None:
    """Remove everything below; nothing there is fine."""
    if isinstance(place, S3Path):
        place.remove_tree()
    elif place.is_dir():
        shutil.rmtree(place)


def child_names(place: Place) -> set[str]:
    """Names of what lies directly below, by one look; none where there is nothing."""
    if isinstance(place, Path) and not place.is_dir():
        return set()
    return {child.name for child in place.iterdir()}


def ray_storage(place: Place) -> dict[str, Any]:
    """A place as the arguments by which Ray's run configurations take it."""
    if isinstance(place, Path):
        return {"storage_path": str(place)}
    return {
        "storage_path": f"{place.bucket}/{place.key}",
        "storage_filesystem": arrow_filesystem(),
    }


@contextmanager
def local_file(place: Place) -> Iterator[Path]:
    """A file with the content while the block runs, for what reads files only.

    Raises:
        FileNotFoundError: It is not there.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
        local = Path(folder) / place.name
        place.download(local)
        yield local


@contextmanager
def local_tree(place: Place) -> Iterator[Path]:
    """A folder with everything that lies below, while the block runs.

    Raises:
        StorageError: A bucket did not answer, or holds a name that leads out of a folder.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
        for found in place.walk():
            name = found.path.relative_to(place)
            if name.is_absolute() or ".." in name.parts:
                raise StorageError(f"{found.path} would leave the folder of a copy; remove it")
            local = Path(folder) / name
            local.parent.mkdir(parents=True, exist_ok=True)
            found.path.download(local)
        yield Path(folder)
