"""What is looked at on each machine of a cluster; runs there, in a worker of Ray."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor.bucket_probe import BucketProbe
from ssprompt_platform.doctor.folder_probe import existing, probe_folder
from ssprompt_platform.storage import Place, S3Path, cache_folder

PACKAGES = ("torch", "ray", "pyarrow", "numpy")
"""Whose versions must agree: the first decides on numbers, the others on what is sent around."""


@dataclass(frozen=True)
class Errand:
    """What a machine is to do.

    Attributes:
        root: The storage root.
        probe: A file below a local root that the driver has written; None for a bucket.
        content: What is in it.
    """

    root: Place
    probe: Path | None = None
    content: bytes = b""


@dataclass(frozen=True)
class Seen:
    """What a machine says.

    Attributes:
        host: Its name.
        seconds: Its clock, since the epoch.
        python: Its version of Python.
        packages: Versions of :data:`PACKAGES`.
        storage: What is wrong with the storage from there; empty: nothing.
        cache: Its cache folder.
        free: Bytes free on the disk of it.
        gpus: How many GPUs torch sees.
        driver: Whether there is an NVIDIA driver.
    """

    host: str
    seconds: float
    python: str
    packages: dict[str, str]
    storage: str
    cache: str
    free: int
    gpus: int = 0
    driver: bool = False


def examine(errand: Errand) -> Seen:
    """Look at the machine that this runs on."""
    seconds = time.time()
    cache = cache_folder()
    return Seen(
        host=socket.gethostname(),
        seconds=seconds,
        python=platform.python_version(),
        packages={name: version_of(name) for name in PACKAGES},
        storage=_storage(errand),
        cache=str(cache),
        free=shutil.disk_usage(existing(cache)).free,
        gpus=_gpus(),
        driver=Path("/proc/driver/nvidia/version").exists(),
    )


def _storage(errand: Errand) -> str:
    """What is wrong with the storage from here, in one sentence."""
    try:
        if isinstance(errand.root, S3Path):
            probe = BucketProbe(errand.root)
            for step in (probe.write, probe.read, probe.delete):
                step()
            probe_folder(cache_folder(), "SSPROMPT_CACHE")
            return ""
        if errand.probe is not None and not _same(errand.probe, errand.content):
            return (
                f"storage.root: {errand.root} is another folder there than here; share it (NFS), "
                "or set storage.root=s3://bucket/prefix"
            )
        probe_folder(errand.root, "storage.root")
    except UserError as error:
        return str(error)
    return ""


def _same(probe: Path, content: bytes) -> bool:
    try:
        return probe.read_bytes() == content
    except OSError:
        return False


def _gpus() -> int:
    """How many GPUs torch sees; Ray hides them from a task that asked for none."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        import torch

        # neither call takes memory of a GPU, which trials may need
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def version_of(name: str) -> str:
    """Version of a package here, or ``missing``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
