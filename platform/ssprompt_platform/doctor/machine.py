"""What this machine gives: versions, GPU, disks, limits."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ssprompt_platform.doctor.findings import Finding, Subject, fail, ok, size, warn
from ssprompt_platform.doctor.folder_probe import LEAST_FREE, existing
from ssprompt_platform.storage import cache_folder

DISTRIBUTION = "ssprompt"
_SHOWN = ("torch", "ray", "mlflow", "optuna", "boto3", "pyarrow")
_INSTALL = "make setup"
_ROOMY = 2 * 2**30
_FILES = 4096
_SHARED_MEMORY = 2**30
_DRIVER = Path("/proc/driver/nvidia/version")


def versions(_: Subject) -> Iterator[Finding]:
    """Python and packages, within the ranges that the project declares."""
    try:
        declared = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield warn(
            "Python",
            f"{platform.python_version()}; {DISTRIBUTION} is not installed as a "
            "package, so that the versions of others cannot be compared",
            f"{_INSTALL} (or pip install -e .)",
        )
        return
    wanted = declared["Requires-Python"] or ">=3.11"
    found = f"{platform.python_version()} (wanted {wanted})"
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield ok("Python", found)
    else:
        yield fail("Python", found, f"{_INSTALL} PYTHON=/path/to/a/python{wanted}")
    yield packages(importlib.metadata.requires(DISTRIBUTION) or [])


def packages(requirements: list[str]) -> Finding:
    """The line about packages.

    Args:
        requirements: As a package's metadata tells them, as in ``torch>=2.13``.
    """
    wrong, shown = [], []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
        if requirement.name in _SHOWN and version is not None:
            shown.append(f"{requirement.name} {version}")
    if wrong:
        return fail(
            "packages", "; ".join(wrong), f"{_INSTALL} (or pip install -c constraints.txt -e .)"
        )
    return ok("packages", ", ".join(shown) or f"all {len(requirements)} as wanted")


def gpu(subject: Subject) -> Iterator[Finding]:
    """GPUs that torch sees."""
    wanted = subject.config.train.device == "cuda"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(count))
        yield ok("GPU", f"{count}: {names}; CUDA {torch.version.cuda}")
    elif _DRIVER.exists():
        built = torch.version.cuda
        what = f"torch is built for CUDA {built}" if built else "torch is built without CUDA"
        state = fail if wanted else warn
        yield state(
            "GPU",
            f"there is an NVIDIA driver, but torch sees no GPU: {what}",
            "install a torch for this driver (https://pytorch.org/get-started), or check "
            "CUDA_VISIBLE_DEVICES",
        )
    elif wanted and "RAY_ADDRESS" not in os.environ:
        yield fail("GPU", "none on this machine, but train.device is cuda", "train.device=auto")
    else:
        yield ok("GPU", "none on this machine; its workers compute on the CPU")


def disks(subject: Subject) -> Iterator[Finding]:
    """Free space where a study writes, one line a disk."""
    places = {
        "cache": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
        "Ray's files": Path(os.environ.get("RAY_TMPDIR", "/tmp")),
    }
    if isinstance(subject.root, Path):
        places = {"storage.root": subject.root} | places
    by_disk: dict[int, list[str]] = {}
    for what, place in places.items():
        by_disk.setdefault(existing(place).stat().st_dev, []).append(what)
    for names in by_disk.values():
        place = existing(places[names[0]])
        total, _, free = shutil.disk_usage(place)
        found = f"{size(free)} free of {size(total)} at {place}"
        name = f"disk of {', '.join(names)}"
        if free < LEAST_FREE:
            yield fail(name, found, f"free space at {place}")
        elif free < _ROOMY:
            yield warn(
                name,
                found,
                f"free space at {place}: embeddings of a large model take 4 MiB an image",
            )
        else:
            yield ok(name, found)


def limits(_: Subject) -> Iterator[Finding]:
    """Open files, and shared memory for Ray's object store."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} may be open at once"
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        most = "65536" if hard == resource.RLIM_INFINITY else str(min(hard, 65536))
        yield warn("open files", found, f"ulimit -n {most}")
    else:
        yield ok("open files", found)
    yield shared_memory(Path("/dev/shm"))


def shared_memory(folder: Path) -> Finding:
    """The line about shared memory; without enough of it Ray's objects go to a disk."""
    name = "shared memory"
    if not folder.is_dir():
        return ok(name, f"{folder} is not there; Ray keeps its objects in files")
    free = shutil.disk_usage(folder).free
    if free < _SHARED_MEMORY:
        return warn(
            name,
            f"{size(free)} free at {folder}: Ray would keep its objects on a disk",
            "mount -o remount,size=4G /dev/shm (in a container: --shm-size=4g)",
        )
    return ok(name, f"{size(free)} free at {folder}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
