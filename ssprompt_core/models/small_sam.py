"""A small SAM of segment-anything's own classes: 96 x 96 images, 24 x 24 x 96 embeddings."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from ssprompt_core.data.textures import SIDE
from ssprompt_core.errors import UserError
from ssprompt_core.models.shipped import DEFAULT_WEIGHTS
from ssprompt_core.text.small import NgramText, SmallTextEncoder

EMBED_DIM, GRID = 96, 24
_WIDTH, _STEM = 128, 64


class ConvStem(nn.Module):
    """Convolutions to stride 4 (fine) and stride 8 (coarse) in place of the patch embedding.

    Patches of 8 x 8 pixels lose the outlines of things that are 20 pixels wide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            LayerNorm2d(32),
            nn.GELU(),
            nn.Conv2d(32, _STEM, 3, stride=2, padding=1),
            LayerNorm2d(_STEM),
            nn.GELU(),
            nn.Conv2d(_STEM, _STEM, 3, padding=1),
            LayerNorm2d(_STEM),
            nn.GELU(),
        )
        self.coarse = nn.Conv2d(_STEM, _WIDTH, 2, stride=2)


class SmallImageEncoder(ImageEncoderViT):  # type: ignore[misc]
    """segment-anything's ViT with a convolutional stem and a neck that keeps stride 4."""

    def __init__(self) -> None:
        super().__init__(
            img_size=SIDE,
            patch_size=8,
            embed_dim=_WIDTH,
            depth=6,
            num_heads=4,
            mlp_ratio=4.0,
            out_chans=EMBED_DIM,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=False,
            window_size=0,
        )
        self.patch_embed = ConvStem()
        self.neck = nn.Sequential(nn.Linear(_WIDTH, 4 * EMBED_DIM), nn.PixelShuffle(2))
        self.skip = nn.Conv2d(_STEM, EMBED_DIM, 1)
        self.mix = nn.Sequential(
            LayerNorm2d(EMBED_DIM),
            nn.GELU(),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images ``[B, 3, 96, 96]`` as ``[B, 96, 24, 24]``."""
        fine = self.patch_embed.fine(x)
        x = self.patch_embed.coarse(fine).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        linear, shuffle = self.neck
        x = shuffle(linear(x).permute(0, 3, 1, 2))
        embedding: Tensor = self.mix(x + self.skip(fine))
        return embedding


class SmallSam(nn.Module):
    """Encoder, stock prompt encoder and stock mask decoder, under segment-anything's own names.

    Attributes:
        image_size: Side of the square input, 96.
        pixel_mean: Subtracted from RGB in [0, 255], ``[3, 1, 1]``.
        pixel_std: Divides it, ``[3, 1, 1]``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.image_size = SIDE
        self.image_encoder = SmallImageEncoder()
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBED_DIM,
            image_embedding_size=(GRID, GRID),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=EMBED_DIM,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=384
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=EMBED_DIM,
        )
        # the same constants as segment-anything's models
        for name, values in (
            ("pixel_mean", [123.675, 116.28, 103.53]),
            ("pixel_std", [58.395, 57.12, 57.375]),
        ):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)


def build_small_sam(weights: Path | None = DEFAULT_WEIGHTS) -> SmallSam:
    """Build the small SAM.

    Args:
        weights: Safetensors file as ``jobs/pretrain_small_sam.py`` writes it (default: the
            shipped one), or None for random weights.

    Raises:
        UserError: The file is missing, damaged or of another model.
    """
    model = SmallSam()
    if weights is not None:
        _load(model, weights, "sam.")
    return model


def build_small_text_encoder(weights: Path | None = DEFAULT_WEIGHTS) -> SmallTextEncoder:
    """Build the text encoder that was pretrained with the small SAM; arguments as there."""
    model = NgramText(EMBED_DIM)
    if weights is not None:
        _load(model, weights, "text.")
    return SmallTextEncoder(model)


def read_card(weights: Path = DEFAULT_WEIGHTS) -> dict[str, Any]:
    """The JSON beside a weights file: SHA-256, training configuration, data seed, gates.

    Raises:
        UserError: There is none, or it is no JSON.
    """
    path = weights.with_suffix(".json")
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as the card of {weights.name}: {error}") from error
    return card


def load_weights(weights: Path = DEFAULT_WEIGHTS) -> dict[str, Tensor]:
    """All tensors of a weights file, with the prefixes ``sam.`` and ``text.``.

    Raises:
        UserError: The file is missing or damaged.
    """
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; it should hold the small SAM's weights")
    expected = read_card(weights).get("sha256")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{weights} has SHA-256 {found[:12]}..., but its card says {str(expected)[:12]}...; "
            "the file is damaged or not the one that the card describes"
        )
    try:
        state: dict[str, Tensor] = load_file(weights)
    except SafetensorError as error:
        raise UserError(f"{weights} is not a safetensors file: {error}") from error
    return state


def _load(module: nn.Module, weights: Path, prefix: str) -> None:
    state = load_weights(weights)
    own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{weights} does not fit the small SAM: {detail}") from error
