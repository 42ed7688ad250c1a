"""A study's tables as Parquet: one schema each, with units, for analysis elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssprompt_platform.report import schemas
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.storage import Place, write_whole


def write_tables(data: StudyData, output: Place | None = None) -> list[Place]:
    """Write all tables of a study, each whole or not at all; a table may have no rows.

    Args:
        data: The study, finished or not.
        output: Folder of the report; None: the study's own.

    Returns:
        Their paths: ``rows``, ``scores``, ``comparisons``, ``curves`` and ``trials``.
    """
    tables = {
        "rows": (schemas.ROWS, _rows(data)),
        "scores": (schemas.SCORES, _scores(data)),
        "comparisons": (schemas.COMPARISONS, _comparisons(data)),
        "curves": (schemas.CURVES, _curves(data)),
        "trials": (schemas.TRIALS, _trials(data)),
    }
    folder = (output or data.folder.report) / "tables"
    paths = []
    for name, (schema, rows) in tables.items():
        path, table = folder / f"{name}.parquet", _table(data, name, schema, rows)
        write_whole(path, partial(pq.write_table, table))
        paths.append(path)
    return paths


def _table(
    data: StudyData, name: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]
) -> pa.Table:
    """Rows by the schema; what a row lacks is null."""
    about = {
        "schema_version": str(schemas.VERSION),
        "table": name,
        "study": data.id,
        "data": str(data.facts["data"]),
        "remarks": json.dumps(list(data.remarks)),
    }
    return pa.Table.from_pylist(list(rows), schema=schema.with_metadata(about))


def _rows(data: StudyData) -> list[dict[str, Any]]:
    """Rows of ``results.json``, flat."""
    return [
        {
            **row,
            **_ends("ci95", row["ci95"]),
            **_ends("bootstrap95", row["bootstrap95"]),
            "n": len(row["draws"]),
            **_side("things", row["things"]),
            **_side("stuff", row["stuff"]),
            "hyperparameters": json.dumps(row["best"], sort_keys=True),
        }
        for row in data.rows
    ]


def _side(name: str, spread: Mapping[str, Any] | None) -> dict[str, float | None]:
    if spread is None:
        return {name: None}
    return {name: spread["mean"], **_ends(f"{name}_ci95", spread["ci95"])}


def _ends(name: str, interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _scores(data: StudyData) -> list[dict[str, Any]]:
    """A row for each finished fit and class."""
    things = data.facts["things"]
    return [
        {
            "method": key.method,
            "shots": key.shots,
            "draw": key.draw,
            "class_id": c,
            "class": name,
            "thing": (c in things) if things else None,
            "iou": record["iou"][c],
        }
        for key, record in data.fits.items()
        for c, name in enumerate(data.facts["classes"])
    ]


def _comparisons(data: StudyData) -> list[dict[str, Any]]:
    """Both families; of one method at two K, the larger K is the first side."""
    methods = [
        {
            **row,
            "first_method": row["first"],
            "first_shots": row["shots"],
            "second_method": row["second"],
            "second_shots": row["shots"],
        }
        for row in data.statistics["methods"]
    ]
    shots = [
        {
            **row,
            "first_method": row["method"],
            "first_shots": row["next"],
            "second_method": row["method"],
            "second_shots": row["shots"],
        }
        for row in data.statistics["shots"]
    ]
    return [{**row, **_ends("ci95", row["ci95"])} for row in (*methods, *shots)]


def _curves(data: StudyData) -> list[dict[str, Any]]:
    """A row for each method that learns: its curve, or why there is none."""
    rows: list[dict[str, Any]] = []
    for method, curve in data.statistics["curves"].items():
        if "refused" in curve:
            rows.append({"method": method, "refused": curve["refused"]})
            continue
        row = {"method": method, **curve, "measured": curve["shots"]}
        for name, interval in curve["ci95"].items():
            row |= _ends(f"{name}_ci95", interval)
        row["band"] = [{**at, **_ends("ci95", at["ci95"])} for at in curve["band"]]
        row["answers"] = [{**to, **_ends("shots", to["ci95"])} for to in curve["answers"]]
        rows.append(row)
    return rows


def _trials(data: StudyData) -> list[dict[str, Any]]:
    return [
        {
            **{name: getattr(trial, name) for name in _TRIAL},
            "scores": list(trial.scores),
            "rung_steps": list(trial.rungs),
            "rung_values": list(trial.rungs.values()),
            **trial.params,
        }
        for trial in data.trials
    ]


_TRIAL = (
    "study", "number", "method", "shots", "labelled", "state", "value", "seconds", "cause",
    "duplicate_of", "begun", "ended",
)  # fmt: skip
