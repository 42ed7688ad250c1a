"""Files of the final fits: finished, failed, under way; what is left to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ssprompt_platform import checkpoints
from ssprompt_platform.plan import FitKey, Group, StudyPlan
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import (
    Place,
    child_names,
    local_file,
    read_json,
    remove,
    write_json,
    write_whole,
)

Best = Mapping[Group, Mapping[str, Any]]
"""Chosen hyperparameters of each method and K."""

_FAILED = ".failed.json"


def record_path(fits: Place, key: FitKey) -> Place:
    """The JSON of a fit; it exists if and only if the fit is finished."""
    return fits / f"{key.name}.json"


def failed_path(fits: Place, key: FitKey) -> Place:
    """Why a fit failed; while it is there the fit is not tried again."""
    return fits / f"{key.name}{_FAILED}"


def prompts_path(fits: Place, key: FitKey) -> Place:
    """The learned prompts of a fit (safetensors)."""
    return fits / f"{key.name}.safetensors"


def shown_path(fits: Place, key: FitKey) -> Place:
    """Test images of a fit with their labels and predictions (safetensors)."""
    return fits / "shown" / f"{key.name}.safetensors"


def running_path(fits: Place, key: FitKey) -> Place:
    """Folder of the checkpoint of a fit that is under way."""
    return fits / "running" / key.name


def settled(fits: Place, key: FitKey) -> bool:
    """Whether a fit is finished or failed: there is nothing left to do for it."""
    return record_path(fits, key).is_file() or failed_path(fits, key).is_file()


def fail(fits: Place, key: FitKey, hyperparameters: Mapping[str, Any], cause: str) -> None:
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


def unfinished(plan: StudyPlan, fits: Place, best: Best) -> list[FitKey]:
    """Fits to do, the costly ones (many shots) first: no worker ends late and alone.

    A fit of other hyperparameters than the chosen ones, finished or failed, is to do again. A fit
    whose group has none chosen cannot be done.
    """
    left, there = [], child_names(fits)
    for key in plan.fits:
        if key.group in best:
            paths = (record_path(fits, key), failed_path(fits, key))
            if not any(_is_of(path, best[key.group]) for path in paths if path.name in there):
                left.append(key)
    return sorted(left, key=lambda key: -key.shots)


def forget_outdated(fits: Place, keys: Sequence[FitKey]) -> None:
    """Remove what is there of fits that are to be done, but for their checkpoints.

    A score of hyperparameters that are no longer the chosen ones must not stand in a table.
    """
    for key in keys:
        # the records first: without one the other files do not count
        for path_of in (record_path, failed_path, prompts_path, shown_path):
            remove(path_of(fits, key))
    for folder in (fits, fits / "shown"):
        for name in child_names(folder):
            if name.startswith("."):
                remove(folder / name)  # half-written by a process that was killed


def read_fits(plan: StudyPlan, fits: Place) -> dict[FitKey, dict[str, Any]]:
    """Records of all finished fits."""
    return _read(plan, fits, record_path)


def read_failed(plan: StudyPlan, fits: Place) -> dict[FitKey, dict[str, Any]]:
    """Records of all failed fits: method, shots, draw, hyperparameters and cause."""
    return _read(plan, fits, failed_path)


def settled_among(fits: Place, keys: Sequence[FitKey]) -> list[FitKey]:
    """Those fits that are finished or failed, by one look."""
    there = child_names(fits)
    return [
        key
        for key in keys
        if record_path(fits, key).name in there or failed_path(fits, key).name in there
    ]


def save_shown(fits: Place, key: FitKey, images: Sequence[ShownImage]) -> None:
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


def load_shown(fits: Place, key: FitKey) -> list[ShownImage]:
    """Images that :func:`save_shown` kept, in its order; none where the fit keeps none."""
    if not shown_path(fits, key).is_file():
        return []
    with (
        local_file(shown_path(fits, key)) as path,
        safe_open(path, framework="numpy") as file,
    ):
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


def _read(
    plan: StudyPlan, fits: Place, path_of: Callable[[Place, FitKey], Place]
) -> dict[FitKey, dict[str, Any]]:
    there = child_names(fits)
    return {key: read_json(path) for key in plan.fits if (path := path_of(fits, key)).name in there}


def _is_of(path: Place, hyperparameters: Mapping[str, Any]) -> bool:
    """Whether a fit's record is there and of these hyperparameters."""
    return bool(read_json(path)["hyperparameters"] == dict(hyperparameters))
