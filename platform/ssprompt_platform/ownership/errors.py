"""How a study's end is called that another process took over."""

from __future__ import annotations

from ssprompt_platform.storage import StorageError


class LostOwnershipError(StorageError):
    """Another process took the study over while this one ran it; one sentence that names it.

    There is nothing to continue here: the other process goes on from what lies in the storage.
    """
