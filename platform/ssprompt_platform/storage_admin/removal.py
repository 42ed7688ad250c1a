"""Deletes what a search for garbage has found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import Place, S3Path
from ssprompt_platform.storage_admin.bucket import delete_keys, end_upload
from ssprompt_platform.storage_admin.garbage import Found, Garbage
from ssprompt_platform.storage_admin.listing import Amount, Entry
from ssprompt_platform.storage_admin.studies import study_ids

BATCH = 1000
"""Of as many the search is still true; before the next ones the studies are counted again."""


def delete(root: Place, found: Found, done: Callable[[int], None] | None = None) -> Amount:
    """Delete all garbage; returns how much went.

    Before every thousand it looks whether a study was begun since the search: such a study may
    refer to what was nobody's.

    Args:
        root: The storage root that was searched.
        found: What the search came to.
        done: Told how many more objects are gone.

    Raises:
        UserError: A study was begun meanwhile.
        StorageError: A bucket did not answer, or refused.
    """
    gone = Amount()
    for garbage in found.garbage:
        for start in range(0, len(garbage.found), BATCH):
            _check_studies(root, found)
            batch = garbage.found[start : start + BATCH]
            _delete(root, batch)
            gone.add(sum(entry.size for entry in batch), len(batch))
            if done is not None:
                done(len(batch))
        gone += _end_uploads(root, garbage)
    return gone


def _check_studies(root: Place, found: Found) -> None:
    begun = sorted(study_ids(root) - found.studies)
    if begun:
        raise UserError(
            f"study {begun[0]} was begun while this ran and may need what was nobody's before; run "
            "the same command again"
        )


def _delete(root: Place, batch: list[Entry]) -> None:
    by_bucket: dict[str, list[str]] = {}
    for entry in batch:
        if isinstance(entry.place, S3Path):
            by_bucket.setdefault(entry.place.bucket, []).append(entry.place.key)
        elif _unchanged(entry.place, entry.modified):
            entry.place.unlink(missing_ok=True)
            _remove_empty(entry.place.parent, root)
    for bucket, keys in by_bucket.items():
        delete_keys(S3Path(bucket), keys)


def _unchanged(path: Path, modified: float) -> bool:
    try:
        return path.lstat().st_mtime == modified
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path, root: Place) -> None:
    """Remove folders that nothing is left in, up to the root."""
    while folder != root and folder != folder.parent:
        try:
            folder.rmdir()
        except OSError:
            return  # something is left in it
        folder = folder.parent


def _end_uploads(root: Place, garbage: Garbage) -> Amount:
    if not isinstance(root, S3Path):
        return Amount()
    for key, identity in garbage.uploads:
        end_upload(root, key, identity)
    return Amount(len(garbage.uploads), garbage.upload_bytes)
