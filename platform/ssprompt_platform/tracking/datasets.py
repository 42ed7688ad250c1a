"""The data set of a study as MLflow's data sets: one for each split, by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ssprompt_platform.config.schema import DataConfig
from ssprompt_platform.data_lock import DataLock

_CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}
_LONGEST_DIGEST = 32
_LONGEST_NAME = 450
_MOST_CLASSES = 500


def dataset_inputs(lock: DataLock, data: DataConfig) -> list[dict[str, Any]]:
    """What MLflow is told of each split: name, digest, source, columns, number of images."""
    return list(_inputs(lock, data))


def _inputs(lock: DataLock, data: DataConfig) -> Iterator[dict[str, Any]]:
    columns = [
        {"type": "binary", "name": "image", "required": True},
        {"type": "binary", "name": "label", "required": True},
    ]
    for split, images in lock.splits.items():
        yield {
            "context": _CONTEXTS[split],
            "dataset": {
                "name": f"{lock.name[:_LONGEST_NAME]} ({split})",
                "digest": lock.fingerprint((split,))[:_LONGEST_DIGEST],
                "source_type": "local" if data.kind == "folder" else "code",
                "source": json.dumps(_source(lock, data)),
                "schema": json.dumps({"mlflow_colspec": columns}),
                "profile": json.dumps(
                    {"num_rows": len(images), "classes": list(lock.classes[:_MOST_CLASSES])}
                ),
            },
        }


def _source(lock: DataLock, data: DataConfig) -> dict[str, str]:
    if data.kind == "folder":
        return {"uri": str(data.images), "labels": str(data.labels)}
    return {"uri": f"{lock.name}: made by ssprompt_core, data.seed={data.seed}"}
