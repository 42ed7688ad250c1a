"""Segmenters in the `transformers` layout: SAM, SAM-HQ, SAM 2.1 or SAM 3, from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssprompt_core.errors import UserError
from ssprompt_core.hub_files import reading, refuse_broken, refuse_incomplete
from ssprompt_core.models.hub_sam import HubSam, HubSam2, HubSamHq
from ssprompt_core.models.segmenter import Segmenter

_KINDS: dict[str, tuple[str, type[HubSam]]] = {
    "sam": ("SamModel", HubSam),
    "sam_hq": ("SamHQModel", HubSamHq),
    "sam2": ("Sam2Model", HubSam2),
    "sam2_video": ("Sam2Model", HubSam2),
    "sam3_tracker": ("Sam3TrackerModel", HubSam2),
    "sam3_video": ("Sam3TrackerModel", HubSam2),
}
"""``model_type`` of a config.json -> class of `transformers`, segmenter over it."""


def build_hub_segmenter(folder: Path | None) -> Segmenter:
    """Build a frozen segmenter from a local folder.

    Args:
        folder: Folder with ``config.json``, ``model.safetensors`` (or its parts and their index)
            and ``preprocessor_config.json`` or ``processor_config.json``. Nothing is downloaded.

    Raises:
        UserError: ``transformers`` is not installed, or the folder is missing, of another kind of
            model, incomplete or not readable.
    """
    if folder is None:
        raise UserError(
            "model.checkpoint is not set, but model.name=transformers needs the folder of a SAM in "
            "the transformers layout"
        )
    model_type = _model_type(folder)
    if model_type not in _KINDS:
        raise UserError(
            f"{folder / 'config.json'} has model_type '{model_type}', but the segmenters in the "
            f"transformers layout are {', '.join(_KINDS)}"
        )
    if not any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
        # pickled weights can run code when they are read
        raise UserError(f"{folder} has no model.safetensors; pickled weights are not read")
    class_name, segmenter_class = _KINDS[model_type]
    model, processor = _load(folder, class_name)
    segmenter = segmenter_class(model, processor, name="transformers")
    _check(folder, segmenter)
    return segmenter


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"model.checkpoint is '{folder}', which is not a folder with a config.json in the "
            "transformers layout"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    return str(config.get("model_type") if isinstance(config, dict) else None)


def _load(folder: Path, class_name: str) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "model.name is 'transformers', but the package is not installed; run: pip install "
            "'ssprompt[text]'"
        ) from error
    with reading(folder, class_name):
        model, report = getattr(transformers, class_name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True, trust_remote_code=False,
        )  # fmt: skip
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    refuse_incomplete(folder, class_name, report["missing_keys"])
    return model, processor


def _check(folder: Path, segmenter: HubSam) -> None:
    """The image processor makes what the encoder takes, and no weight is broken."""
    side = segmenter.image_size
    found = tuple(segmenter.preprocess(np.zeros((32, 48, 3), np.uint8)).shape)
    if found != (3, side, side):
        raise UserError(
            f"{folder} prepares images of shape {found}, but its model takes {(3, side, side)}"
        )
    refuse_broken(folder, segmenter.state_dict())
