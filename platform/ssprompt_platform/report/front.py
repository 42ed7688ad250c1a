"""The price list of labels: which settings give more mIoU than any that costs no more images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.search.records import TrialRecord


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other point dominates (Pareto front).

    A point dominates another that costs at least as much and is worth no more; of equal points the
    first is on the front.

    Args:
        points: (cost, value) each, finite; cost is to be small, value large.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    kept, best = [False] * len(points), float("-inf")
    for i in order:
        value = points[i][1]
        if value > best:
            kept[i], best = True, value
    return kept


def front_rows(
    trials: Sequence[TrialRecord], labelled: Mapping[str, float], *, pareto: bool
) -> list[dict[str, Any]]:
    """Labelled images against mIoU on the selection images, cheapest first.

    Args:
        trials: Of the whole search.
        labelled: Distinct labelled images of each K (keys as in JSON), where a trial has none.
        pareto: K was searched: every finished trial is a point; else the best one of each method
            and K is.

    Returns:
        Rows of ``method``, ``shots``, ``labelled`` (images), ``value`` (mIoU), ``number``,
        ``params`` and ``on_front``, which is over all methods together.
    """
    done = [t for t in trials if t.state == "complete" and t.value is not None]
    rows: list[dict[str, Any]] = [
        {
            "method": trial.method,
            "shots": trial.shots,
            "labelled": cost,
            "value": trial.value,
            "number": trial.number,
            "params": trial.params,
        }
        for trial in (done if pareto else _best(done))
        if (cost := _cost(trial, labelled)) is not None
    ]
    kept = on_front([(row["labelled"], row["value"]) for row in rows])
    rows = [{**row, "on_front": on} for row, on in zip(rows, kept, strict=True)]
    return sorted(rows, key=lambda row: (row["labelled"], -row["value"]))


def _best(done: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best trial of each method and K; of equal ones the first, as the search chooses."""
    best: dict[tuple[str, int], TrialRecord] = {}
    for trial in done:
        held = best.get((trial.method, trial.shots))
        if held is None or (trial.value or 0.0) > (held.value or 0.0):
            best[trial.method, trial.shots] = trial
    return list(best.values())


def _cost(trial: TrialRecord, labelled: Mapping[str, float]) -> float | None:
    if trial.labelled is not None:
        return float(trial.labelled)
    return labelled.get(str(trial.shots))
