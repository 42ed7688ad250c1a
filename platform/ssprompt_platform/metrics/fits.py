"""Metrics of the final fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.metrics.names import FITS
from ssprompt_platform.metrics.recorder import show
from ssprompt_platform.plan import FitKey, Group


class FitMetrics:
    """Counts fits that ended, in this part of a study or before.

    Args:
        study: The study's id.
        fits: All final fits of the study.
    """

    def __init__(self, study: str, fits: Sequence[FitKey]) -> None:
        self._study = study
        self._fits = {
            group: Counter({"left": number, "done": 0, "failed": 0})
            for group, number in Counter(key.group for key in fits).items()
        }
        for group in self._fits:
            self._show(group)

    def counted(self, key: FitKey, record: Mapping[str, Any]) -> None:
        """A fit has ended; the record of a failed one has its ``cause``."""
        fits = self._fits[key.group]
        fits["failed" if "cause" in record else "done"] += 1
        fits["left"] -= 1
        self._show(key.group)

    def _show(self, group: Group) -> None:
        labels = {"study": self._study, "method": group.method, "shots": group.shots}
        for state, number in self._fits[group].items():
            show(FITS, number, state=state, **labels)
