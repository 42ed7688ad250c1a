"""What a study ran on: packages, source and hardware, for the one who wants to run it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import ray

_SECONDS = 10


def environment() -> dict[str, Any]:
    """Packages with versions, the commit of this program, this machine and the Ray cluster."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "git": commit(),
        "machine": {
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "memory_gib": _memory(),
            "gpus": _gpus(),
        },
        "cluster": _cluster(),
    }


def commit() -> dict[str, Any] | None:
    """Commit of this program's source and whether files differ from it; None outside of git."""
    source = Path(__file__).resolve().parent
    found = _output("git", "-C", str(source), "rev-parse", "HEAD")
    # an installed package may lie in a folder of somebody else's repository
    tracked = _output("git", "-C", str(source), "ls-files", "--", Path(__file__).name)
    if not found or not tracked:
        return None
    changed = _output("git", "-C", str(source), "status", "--porcelain", "--untracked-files=no")
    return {"commit": found, "changed": bool(changed)}


def _packages() -> dict[str, str]:
    """Every installed distribution with its version, by name."""
    found = {
        str(one.metadata["Name"]): str(one.version)
        for one in importlib.metadata.distributions()
        if one.metadata["Name"]
    }
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU, asked without taking any of its memory."""
    text = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                   "--format=csv,noheader")  # fmt: skip
    return text.splitlines()


def _cluster() -> list[dict[str, float]]:
    """Resources of each living node of a connected Ray cluster, without names of machines."""
    if not ray.is_initialized():
        return []
    return [
        {
            name: float(count)
            for name, count in sorted(node["Resources"].items())
            if not name.startswith("node:")
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def _output(*command: str) -> str:
    """What a program prints; empty where there is no such program or it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
