"""Files of the final fits: finished, failed, under way; what is left to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ssprompt_platform import checkpoints
from ssprompt_platform.plan import FitKey, Group, StudyPlan
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import read_json, write_json, write_whole

Best = Mapping[Group, Mapping[str, Any]]
"""Chosen hyperparameters of each method and K."""

_FAILED = ".failed.json"


def record_path(fits: Path, key: FitKey) -> Path:
    """The JSON of a fit; it exists if and only if the fit is finished."""
    return fits / f"{key.name}.json"


def failed_path(fits: Path, key: FitKey) -> Path:
    """Why a fit failed; while it is there the fit is not tried again."""
    return fits / f"{key.name}{_FAILED}"


def prompts_path(fits: Path, key: FitKey) -> Path:
    """The learned prompts of a fit (safetensors)."""
    return fits / f"{key.name}.safetensors"


def shown_path(fits: Path, key: FitKey) -> Path:
    """Test images of a fit with their labels and predictions (safetensors)."""
    return fits / "shown" / f"{key.name}.safetensors"


def running_path(fits: Path, key: FitKey) -> Path:
    """Folder of the checkpoint of a fit that is under way."""
    return fits / "running" / key.name


def settled(fits: Path, key: FitKey) -> bool:
    """Whether a fit is finished or failed: there is nothing left to do for it."""
    return record_path(fits, key).is_file() or failed_path(fits, key).is_file()


def fail(fits: Path, key: FitKey, hyperparameters: Mapping[str, Any], cause: str) -> None:
    """Record that a fit failed, so that it is not tried again as it is."""
    write_json(
        failed_path(fits, key),
        {
            "method": key.method,
            "shots": key.shots,
            "draw": key.draw,
            "status": "failed",
            "hyperparameters": dict(hyperparameters),
            "cause": cause,
        },
    )
    checkpoints.clear(running_path(fits, key))


def unfinished(plan: StudyPlan, fits: Path, best: Best) -> list[FitKey]:
    """Fits to do, the costly ones (many shots) first: no worker ends late and alone.

    A fit of other hyperparameters than the chosen ones, finished or failed, is to do again. A fit
    whose group has none chosen cannot be done.
    """
    left = []
    for key in plan.fits:
        if key.group in best:
            paths = (record_path(fits, key), failed_path(fits, key))
            if not any(_is_of(path, best[key.group]) for path in paths):
                left.append(key)
    return sorted(left, key=lambda key: -key.shots)


def forget_outdated(fits: Path, keys: Sequence[FitKey]) -> None:
    """Remove what is there of fits that are to be done, but for their checkpoints.

    A score of hyperparameters that are no longer the chosen ones must not stand in a table.
    """
    for key in keys:
        # the records first: without one the other files do not count
        for path_of in (record_path, failed_path, prompts_path, shown_path):
            path_of(fits, key).unlink(missing_ok=True)
    for folder in (fits, fits / "shown"):
        for path in folder.glob(".*"):
            path.unlink(missing_ok=True)  # half-written by a process that was killed


def read_fits(plan: StudyPlan, fits: Path) -> dict[FitKey, dict[str, Any]]:
    """Records of all finished fits."""
    return {
        key: read_json(record_path(fits, key))
        for key in plan.fits
        if record_path(fits, key).is_file()
    }


def read_failed(plan: StudyPlan, fits: Path) -> dict[FitKey, dict[str, Any]]:
    """Records of all failed fits: method, shots, draw, hyperparameters and cause."""
    return {
        key: read_json(failed_path(fits, key))
        for key in plan.fits
        if failed_path(fits, key).is_file()
    }


def save_shown(fits: Path, key: FitKey, images: Sequence[ShownImage]) -> None:
    """Keep test images with their labels and predictions: pictures ask for no label again."""
    tensors: dict[str, np.ndarray] = {}
    for number, shown in enumerate(images):
        parts = {"image": shown.image, "truth": shown.truth, "predicted": shown.predicted}
        for name, part in parts.items():
            tensors[f"{number}.{name}"] = np.ascontiguousarray(part)
    named = [{"image_id": shown.image_id, "miou": shown.miou} for shown in images]
    metadata = {"images": json.dumps(named, allow_nan=False)}
    path = shown_path(fits, key)
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_shown(fits: Path, key: FitKey) -> list[ShownImage]:
    """Images that :func:`save_shown` kept, in its order; none where the fit keeps none."""
    path = shown_path(fits, key)
    if not path.is_file():
        return []
    with safe_open(path, framework="numpy") as file:
        named = json.loads(file.metadata()["images"])
        return [
            ShownImage(
                image_id=entry["image_id"],
                image=file.get_tensor(f"{number}.image"),
                truth=file.get_tensor(f"{number}.truth"),
                predicted=file.get_tensor(f"{number}.predicted"),
                miou=entry["miou"],
            )
            for number, entry in enumerate(named)
        ]


def _is_of(path: Path, hyperparameters: Mapping[str, Any]) -> bool:
    """Whether a fit's record is there and of these hyperparameters."""
    return path.is_file() and read_json(path)["hyperparameters"] == dict(hyperparameters)
