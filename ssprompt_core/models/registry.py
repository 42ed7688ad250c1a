"""Segmenters by name: the small SAM, official checkpoint files, folders of `transformers`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from torch import Tensor

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter

_ENCODER_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}

# what torch.load raises for files that are cut off, of another kind or hold more than tensors
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    ImportError,
    TypeError,
)


def build_segmenter(name: str, checkpoint: Path | None = None) -> Segmenter:
    """Build a frozen segmenter.

    Args:
        name: A key of :data:`SEGMENTERS`.
        checkpoint: Weights in the official format for ``vit_*``; the folder of a SAM, SAM-HQ, SAM
            2 or SAM 3 in the transformers layout for ``transformers``. ``small`` ships with its
            weights; None takes those.

    Raises:
        UserError: The name is unknown, or the checkpoint is missing, unreadable or not of this
            model.
    """
    if name not in SEGMENTERS:
        raise UserError(
            f"model.name is '{name}'{nearest(name, list(SEGMENTERS))}, but the segmenters are "
            f"{', '.join(SEGMENTERS)}"
        )
    return SEGMENTERS[name](checkpoint)


def _build_small(checkpoint: Path | None) -> Segmenter:
    from ssprompt_core.models.small_sam import build_small_sam

    sam = build_small_sam() if checkpoint is None else build_small_sam(_existing(checkpoint))
    return SamSegmenter(sam, name="small", native_text=True)


def _build_hub(folder: Path | None) -> Segmenter:
    # imported here: nothing of it is needed for the other segmenters
    from ssprompt_core.models.hub import build_hub_segmenter

    return build_hub_segmenter(folder)


def _vit(name: str) -> Callable[[Path | None], Segmenter]:
    def build(checkpoint: Path | None) -> Segmenter:
        if checkpoint is None:
            raise UserError(
                f"model.checkpoint is not set, but model.name={name} needs the checkpoint file of "
                "Segment Anything (sam_vit_*.pth)"
            )
        weights = _load_weights(_existing(checkpoint))
        # with its checkpoint argument, segment-anything would unpickle whatever the file holds
        sam = sam_model_registry[name](checkpoint=None)
        _check_weights(name, checkpoint, sam.state_dict(), weights)
        sam.load_state_dict(weights)
        return SamSegmenter(sam, name=name)

    return build


def _existing(checkpoint: Path) -> Path:
    if not checkpoint.is_file():
        raise UserError(f"model.checkpoint is '{checkpoint}', which is not a file")
    return checkpoint


def _load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, tensors only."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}); it is "
            "damaged, cut off or of another kind"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(
            f"{path} does not hold a state dict; a Segment Anything checkpoint maps parameter "
            "names to tensors"
        )
    return weights


def _check_weights(
    name: str, path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]
) -> None:
    position = found.get("image_encoder.pos_embed")
    other = _ENCODER_WIDTHS.get(position.shape[-1]) if position is not None else None
    if other is not None and other != name:
        raise UserError(f"{path} is a checkpoint of {other}, but model.name is {name}")
    for key, value in expected.items():
        if key not in found:
            raise UserError(f"{path} has no '{key}', so it is not a checkpoint of {name}")
        if found[key].shape != value.shape:
            raise UserError(
                f"{path} has '{key}' of shape {tuple(found[key].shape)}, but {name} needs "
                f"{tuple(value.shape)}"
            )
        if not torch.isfinite(found[key]).all():
            raise UserError(f"{path} has values in '{key}' that are not finite numbers")
    for key in found:
        if key not in expected:
            raise UserError(f"{path} has '{key}', which {name} does not have")


SEGMENTERS: dict[str, Callable[[Path | None], Segmenter]] = {
    "small": _build_small,
    "vit_b": _vit("vit_b"),
    "vit_l": _vit("vit_l"),
    "vit_h": _vit("vit_h"),
    "transformers": _build_hub,
}
"""Name -> builder that takes a checkpoint (file or folder) or None."""
