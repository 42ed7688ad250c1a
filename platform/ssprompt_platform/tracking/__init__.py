"""What a study tells MLflow: written to a journal on disk, delivered by one thread."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssprompt_platform.tracking.start import check_tracking, start_tracker
    from ssprompt_platform.tracking.target import Target, target_of, tracking_uri
    from ssprompt_platform.tracking.tracker import Tracker

_WHERE = {
    "Target": "target",
    "Tracker": "tracker",
    "check_tracking": "start",
    "start_tracker": "start",
    "target_of": "target",
    "tracking_uri": "target",
}

__all__ = ["Target", "Tracker", "check_tracking", "start_tracker", "target_of", "tracking_uri"]


def __getattr__(name: str) -> Any:
    # what delivers a journal needs neither torch nor Ray, which what begins a study imports
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
