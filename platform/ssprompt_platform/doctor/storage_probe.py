"""Whether a storage root takes what a study does with it; by doing it, with one probe."""

from __future__ import annotations

from ssprompt_platform.doctor.folder_probe import probe_folder
from ssprompt_platform.storage import Place, S3Path, cache_folder

ROOT, CACHE = "storage.root", "SSPROMPT_CACHE"


def check_storage(root: Place) -> None:
    """Write, read, list and delete a probe below a storage root, as a study will.

    Nothing stays: neither the probe nor a folder. It takes a few requests or file operations with
    a mebibyte of data (a full disk may still take a few bytes), and seconds at most where the
    server does not answer.

    Args:
        root: The storage root. With a bucket, this machine's cache folder is checked too.

    Raises:
        UserError: The first thing that does not work, in one sentence.
    """
    if not isinstance(root, S3Path):
        probe_folder(root, ROOT)
        return
    # here, since a study on a disk needs no client of S3
    from ssprompt_platform.doctor.bucket_probe import BucketProbe

    probe = BucketProbe(root)
    for step in probe.steps.values():
        step()
    probe_folder(cache_folder(), CACHE)
