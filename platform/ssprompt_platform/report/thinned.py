"""The trials that pages and pictures show where a search has more than anybody can look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ssprompt_platform.search.records import TrialRecord

SHOWN = 1000
"""Trials of a study that its page shows one by one; ``tables/trials.parquet`` has all."""

Item = TypeVar("Item")


def thinned(trials: Sequence[TrialRecord], most: int = SHOWN) -> list[TrialRecord]:
    """About ``most`` of the trials, in their order, or all where they are not more.

    Of each method and K, those that were the best so far stay, so that the line of the best is the
    true one, and the others at even distances.
    """
    if len(trials) <= most:
        return list(trials)
    best: dict[tuple[str, int], float] = {}
    kept: set[int] = set()
    of_group: dict[tuple[str, int], list[int]] = {}
    for place, trial in enumerate(trials):
        group = (trial.method, trial.shots)
        of_group.setdefault(group, []).append(place)
        value = trial.value if trial.state == "complete" else None
        if value is not None and value > best.get(group, -1.0):
            best[group] = value
            kept.add(place)
    for places in of_group.values():
        kept.update(evenly(places, max(2, most * len(places) // len(trials))))
    return [trials[place] for place in sorted(kept)]


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, the first and the last among them, at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def told(shown: int, of: int) -> str:
    """A sentence where not all trials are shown; empty where they are."""
    if shown == of:
        return ""
    return (
        f" Of {of:,} trials {shown:,} are shown: those that were the best so far, and others at "
        "even distances; tables/trials.parquet has all."
    )
