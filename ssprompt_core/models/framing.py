"""Where an image lies in the square of a segmenter, and bounded memory when it decodes many."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssprompt_core.models.frozen import Images, take_images

MAX_PAIR_CELLS = {"cpu": 2**16, "cuda": 2**20}
"""Cells times (image, class) pairs decoded at once without gradient: bounds the memory."""


def padded_frame(height: int, width: int, image_size: int, grid_size: int) -> tuple[int, int]:
    """Rows and columns of the logits whose centres lie on an image padded to a square.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        image_size: Side of the square; the longest side of the image is resized to it.
        grid_size: Side of the embedding; the logits have ``4 * grid_size`` rows and columns.
    """
    scale = 4 * grid_size / image_size
    resized = _resized(height, width, image_size)
    rows, columns = (max(1, math.ceil(side * scale - 0.5)) for side in resized)
    return rows, columns


def upscale_padded(logits_BCyx: Tensor, height: int, width: int, image_size: int) -> Tensor:
    """Upscale, remove the padding and resize as ``Sam.postprocess_masks`` does.

    Args:
        logits_BCyx: Float logits of the padded square.
        height: Rows of the image.
        width: Columns of the image.
        image_size: Side of the padded square.

    Returns:
        ``[B, C, height, width]``.
    """
    rows, columns = _resized(height, width, image_size)
    logits_BCSS = resize(logits_BCyx, (image_size, image_size))
    return resize(logits_BCSS[..., :rows, :columns], (height, width))


def _resized(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Rows and columns of an image whose longest side is resized."""
    # here, since torchvision comes with it, which --help and mistakes in words need not wait for
    from segment_anything.utils.transforms import ResizeLongestSide

    rows, columns = ResizeLongestSide.get_preprocess_shape(height, width, image_size)
    return rows, columns


def resize(x_BCyx: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly to ``size`` (rows, columns)."""
    if x_BCyx.shape[-2:] == size:
        return x_BCyx  # bilinear resizing to the same size is the identity
    return F.interpolate(x_BCyx, size, mode="bilinear", align_corners=False)


def decode_in_chunks(
    run: Callable[[Images, Tensor], Tensor], images: Images, tokens_CTD: Tensor, cells: int
) -> Tensor:
    """Decode all (image, token sequence) pairs, without gradient in chunks of bounded memory.

    With gradient the graph keeps everything anyway, and the caller chooses the batch.

    Args:
        run: Decodes some images with some token sequences to ``[b, c, ..]``.
        images: Image embeddings, or prepared images.
        tokens_CTD: Token sequences.
        cells: Of an image.

    Returns:
        ``[B, C, ..]``.
    """
    if torch.is_grad_enabled():
        return run(images, tokens_CTD)
    pairs = max(1, MAX_PAIR_CELLS.get(images.device.type, 2**20) // cells)
    at_once = max(1, pairs // len(tokens_CTD))
    chunks = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    return torch.cat(
        [
            torch.cat([run(some, tokens) for tokens in torch.split(tokens_CTD, pairs)], dim=1)
            for some in (take_images(images, chunk) for chunk in chunks)
        ]
    )
