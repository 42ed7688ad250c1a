"""Who runs a study: a process, told apart from all others, and whether it is alive."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

_BOOT, _PROCESSES = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


def this_process() -> dict[str, Any]:
    """``host``, ``pid`` and ``since`` of this process, for others to read."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def process_space() -> str:
    """Names what this process's id is unique in: host, boot and container; empty: not known.

    A container may bear its host's name, and counts its processes anew.
    """
    try:
        boot, processes = _BOOT.read_text().strip(), str(_PROCESSES.readlink())
    except OSError:  # not Linux
        return ""
    return f"{socket.gethostname()} {boot} {processes}"


def lives_here(owner: Mapping[str, Any]) -> bool | None:
    """Whether the process of an owner lives; None where that cannot be seen from here."""
    space, pid = process_space(), owner.get("pid")
    if not space or owner.get("space") != space or not isinstance(pid, int) or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def told(owner: Mapping[str, Any] | None) -> str:
    """An owner in words."""
    if not owner or not {"host", "pid", "since"} <= owner.keys():
        return "another process"
    return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
