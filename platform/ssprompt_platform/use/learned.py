"""Learned prompts in use: the model, the device and the batch that a file needs."""

from __future__ import annotations

from pathlib import Path

import torch

from ssprompt_core.errors import UserError
from ssprompt_core.methods.saved import SavedPrompts
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_platform.sources import SegmenterSource

_MAX_BATCH = 16
_PIXELS_AT_ONCE = 2**20


def segmenter_of(prompts: SavedPrompts, checkpoint: Path | None) -> Segmenter:
    """Build the segmenter that a file names.

    Args:
        prompts: The file; whether the weights are the right ones is seen by its ``model``.
        checkpoint: File or folder of its weights, where it does not ship with them.

    Raises:
        UserError: The segmenter cannot be built, mostly for want of the right checkpoint.
    """
    source = checkpoint.absolute() if checkpoint else None
    try:
        return SegmenterSource(prompts.segmenter.name, source).build()
    except UserError as error:
        raise UserError(
            f"{prompts.path} needs the segmenter {prompts.segmenter}, whose weights --checkpoint "
            f"names; {error}"
        ) from error


def resolve_device(wanted: str) -> str:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device that is there.

    Raises:
        UserError: A GPU is asked for, but torch finds none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("--device is cuda, but torch finds no GPU here; use auto or cpu")
    return "cuda" if wanted != "cpu" and available else "cpu"


def resolve_batch(wanted: int, segmenter: Segmenter) -> int:
    """Images at once: as wanted, or for 0 as many as a model of this input size takes in stride.

    Raises:
        UserError: The wanted number is negative.
    """
    if wanted < 0:
        raise UserError(f"--batch-size is {wanted}, but must be at least 1, or 0 to leave it open")
    # large inputs fill a processor one at a time: more would only take memory
    return wanted or max(1, min(_MAX_BATCH, _PIXELS_AT_ONCE // segmenter.image_size**2))
