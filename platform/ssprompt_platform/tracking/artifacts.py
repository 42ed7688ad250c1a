"""Small files that runs keep: resolved configuration, split, table per class, overlays."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from ssprompt_platform.plan import Group, StudyPlan
from ssprompt_platform.report.figures import tint
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import safe_name, write_bytes, write_text, write_whole

_MARK = 12
_GAP = 4
_PER_CLASS = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("shots", pa.int32(), nullable=False, metadata={"unit": "labelled images a class"}),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("iou", pa.float64(), metadata={"meaning": "null: not in any test label"}),
    ]
)


def keep_config(folder: Path, config: Mapping[str, Any]) -> str:
    """Write a study's configuration once; returns the file's name, another one for another text."""
    return _keep(folder, "config", "yaml", to_yaml(config))


def keep_split(folder: Path, group: Group, plan: StudyPlan) -> str:
    """Write what a search trial of a K is fitted and scored on; returns the file's name."""
    draws = [
        {
            "draw": number,
            "seed": plan.draws[number].seed,
            "folds": [{"fit": list(fold.fit_ids), "score": list(fold.score_ids)} for fold in folds],
        }
        for (number, shots), folds in plan.folds.items()
        if shots == group.shots
    ]
    record = {"shots": group.shots, "draws": draws}
    return _keep(folder, f"split-k{group.shots}", "json", json.dumps(record, indent=1) + "\n")


def final_split(group: Group, plan: StudyPlan) -> str:
    """What the final fits of a method and K are fitted and scored on, as JSON."""
    draws = [
        {"draw": number, "seed": draw.seed, "fit": list(draw.support[group.shots])}
        for number, draw in enumerate(plan.draws)
    ]
    record = {"shots": group.shots, "draws": draws, "score": list(plan.test_ids)}
    return json.dumps(record, indent=1) + "\n"


def setting_yaml(group: Group, hyperparameters: Mapping[str, Any], kind: str) -> str:
    """The part of a run's configuration that is its own, to stand behind that of the study."""
    own = {"method": group.method, "shots": group.shots, "hyperparameters": dict(hyperparameters)}
    return f"\n# the setting of this run\n{to_yaml({kind: own})}"


def to_yaml(content: Mapping[str, Any]) -> str:
    """Plain YAML in the order that was given."""
    return str(yaml.safe_dump(dict(content), sort_keys=False))


def write_per_class(
    folder: Path, group: Group, records: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> list[Path]:
    """IoU by class and draw: as Parquet, a row each, and as CSV, which MLflow's UI shows.

    A class that no test label shows has none.
    """
    rows = [
        {
            "method": group.method,
            "shots": group.shots,
            "draw": int(record["draw"]),
            "class": name,
            "iou": iou,
        }
        for record in records
        for name, iou in zip(class_names, record["iou"], strict=True)
    ]
    table = pa.Table.from_pylist(rows, schema=_PER_CLASS)
    parquet, csv_file = folder / "per-class.parquet", folder / "per-class.csv"
    write_whole(parquet, lambda temporary: pq.write_table(table, temporary))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["class", *(f"draw {record['draw']}" for record in records)])
    for c, name in enumerate(class_names):
        ious = [record["iou"][c] for record in records]
        writer.writerow([name, *("" if iou is None else f"{iou:.4f}" for iou in ious)])
    write_text(csv_file, text.getvalue())
    return [parquet, csv_file]


def write_overlays(folder: Path, images: Sequence[ShownImage]) -> list[Path]:
    """A PNG for each image: as it is, its label, the prediction, side by side."""
    paths = []
    for image in images:
        height = image.image.shape[0]
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        panels = [image.image, tint(image.image, image.truth), tint(image.image, image.predicted)]
        strip = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
        content = io.BytesIO()
        Image.fromarray(strip).save(content, format="PNG")
        paths.append(folder / f"{safe_name(image.image_id)}.png")
        write_bytes(paths[-1], content.getvalue())
    return paths


def _keep(folder: Path, name: str, suffix: str, text: str) -> str:
    file = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:_MARK]}.{suffix}"
    if not (folder / file).is_file():
        write_text(folder / file, text)
    return file
