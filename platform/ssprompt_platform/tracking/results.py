"""Parameters, metrics and descriptions of runs, from what a study knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssprompt_core.methods import MethodSettings
from ssprompt_platform.plan import Group
from ssprompt_platform.search.space import FIT_HYPERPARAMETERS
from ssprompt_platform.tracking.names import legal_name

SCORE, LOSS = "selection.miou", "train.loss"
"""Metrics of a trial; names say of which images they are."""
TEST = "test.miou"
_EPOCH_VALUES = {"loss": LOSS, "value": f"{SCORE}.rung"}
_MOST_CLASSES = 100

Values = dict[tuple[str, int], float]
"""Metrics by name and step."""


def run_params(group: Group, hyperparameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Flat parameters with the same keys on every child, as MLflow's comparisons want them."""
    known = dict.fromkeys([*MethodSettings.__dataclass_fields__, *FIT_HYPERPARAMETERS], "")
    return {
        "kind": kind, "method": group.method, "shots": group.shots, **known, **hyperparameters,
    }  # fmt: skip


def final_values(row: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Values:
    """Metrics of the final fits of a method at a K: of single draws, a step each, and means."""
    values: Values = {}
    for position, record in enumerate(records):
        draw = int(record.get("draw", position))
        # not the bare name: MLflow shows its last value, which is one draw's, above the mean
        values[f"{TEST}.draw", draw] = record["miou"]
        if "seconds" in record:
            values["fit.seconds", draw] = record["seconds"]["fit"]
        for entry in record["history"]:
            if entry["loss"] is not None:
                values[f"{LOSS}.draw{draw}", int(entry["epoch"])] = entry["loss"]
    values[f"{TEST}.mean", 0] = row["mean"]
    if row["ci95"]:
        values[f"{TEST}.low", 0], values[f"{TEST}.high", 0] = row["ci95"]
    return values


def class_values(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Values:
    """Mean test IoU over the draws of each class that any test label shows; not of too many."""
    values: Values = {}
    for c, name in enumerate(names[:_MOST_CLASSES]):
        found = [record["iou"][c] for record in records if record["iou"][c] is not None]
        metric = legal_name(f"test.iou.{name}")
        if (metric, 0) in values:  # of another class whose name differs in what is not legal
            metric = legal_name(f"test.iou.{name}.{c}")
        if found:
            values[metric, 0] = sum(found) / len(found)
    return values


def epoch_values(epochs: Iterable[Mapping[str, Any]]) -> Values:
    """What is shown of epochs; a diverged one may lack a value."""
    return {
        (name, int(entry["epoch"])): float(entry[given])
        for entry in epochs
        for given, name in _EPOCH_VALUES.items()
        if entry.get(given) is not None
    }


def short(value: Any) -> str:
    """A hyperparameter as one reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def description(
    rows: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    facts: Mapping[str, Any],
    remarks: Sequence[str],
    place: str,
) -> str:
    """What the UI shows above a study's run, in Markdown: the question and the table of results.

    Args:
        rows: Rows of the results; none while there are none.
        methods: In the order of the table.
        facts: Of data and model (``study.json``).
        remarks: Sentences that every table must carry.
        place: Where the report lies.
    """
    shots = sorted({int(k) for k in facts["labelled"]})
    lines = [
        f"How good is **{facts['model']}** on **{facts['data']}** with K labelled images a class? "
        f"mIoU on {facts['test_images']} test images, mean over support draws [95 % interval].",
        "",
        f"| method | {' | '.join(f'K = {k}' for k in shots)} |",
        f"|---|{'---|' * len(shots)}",
    ]
    cells = {(row["method"], row["shots"]): cell(row) for row in rows}
    for method in methods:
        found = [cells.get((method, k), "") for k in shots]
        lines.append(f"| {method} | {' | '.join(found)} |")
    lines += ["", *remarks, f"Report: the artifact `report/index.html`, or {place}"]
    return "\n".join(lines)


def cell(row: Mapping[str, Any]) -> str:
    """Mean and interval of a row of results."""
    interval = row["ci95"]
    ends = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{row['mean']:.3f}{ends}"
