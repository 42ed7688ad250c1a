"""Decoder passes of pretraining: every weight learns, all four masks, chosen cells alone.

Studies decode through :mod:`ssprompt_core.models.decoding`, which takes all weights as frozen.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.data.textures import SIDE
from ssprompt_core.models.small_sam import GRID, SmallSam

CELL = SIDE // GRID
"""A cell of the embedding covers 4 x 4 pixels."""


def exact() -> torch.autocast:
    """Turns bfloat16 off: positions of 96 pixels in sines of high frequency need float32."""
    return torch.autocast("cpu", enabled=False)


def by_cell(maps: NDArray[Any]) -> NDArray[Any]:
    """Rearrange maps ``[..., 96, 96]`` as ``[..., 576, 16]``: the pixels of each cell."""
    *rest, _, _ = maps.shape
    split = maps.reshape(*rest, GRID, CELL, GRID, CELL).swapaxes(-3, -2)
    return split.reshape(*rest, GRID * GRID, CELL * CELL)


def decode_prompts(
    sam: SmallSam, image_MDhw: Tensor, sparse_MTD: Tensor, cells_P: Tensor
) -> tuple[Tensor, Tensor]:
    """One pass per prompt, as the stock decoder does it.

    Returns:
        Mask logits ``[M, 4, P, 16]`` and predicted IoU ``[M, 4]``.
    """
    decoder = sam.mask_decoder
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output.expand(len(sparse_MTD), -1, -1), sparse_MTD], 1)
    hidden, image = _transform(sam, image_MDhw, tokens)
    hyper = [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    features = _upscale_cells(decoder.output_upscaling, image[:, cells_P])
    masks = torch.einsum("mkc,mpsc->mkps", torch.stack(hyper, 1), features)
    return masks.float(), decoder.iou_prediction_head(hidden[:, 0]).float()


def decode_all_classes(
    sam: SmallSam, image_BDhw: Tensor, text_CD: Tensor, cells_P: Tensor
) -> Tensor:
    """All classes in one pass: the output token of a class is mask token 0 plus its text.

    Returns:
        Logits ``[B, C, P, 16]``.
    """
    decoder = sam.mask_decoder
    classes = decoder.mask_tokens.weight[:1] + text_CD
    tokens = torch.cat([decoder.iou_token.weight, classes]).expand(len(image_BDhw), -1, -1)
    hidden, image = _transform(sam, image_BDhw, tokens)
    hyper = decoder.output_hypernetworks_mlps[0](hidden[:, 1 : 1 + len(text_CD)])
    features = _upscale_cells(decoder.output_upscaling, image[:, cells_P])
    return torch.einsum("bkc,bpsc->bkps", hyper, features).float()


def _transform(sam: SmallSam, image_MDhw: Tensor, tokens_MTD: Tensor) -> tuple[Tensor, Tensor]:
    dense = sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    with exact():
        position = sam.prompt_encoder.get_dense_pe().expand(len(image_MDhw), -1, -1, -1)
    hidden, image = sam.mask_decoder.transformer(image_MDhw + dense, position, tokens_MTD)
    return hidden, image


def _upscale_cells(upscaling: Any, image_MPD: Tensor) -> Tensor:
    """The stock upscaling of chosen cells, ``[M, P, 16, D / 8]``.

    Both transposed convolutions have stride = kernel, so that a cell's pixels depend on that cell
    alone.
    """
    first, norm, _, second, _ = upscaling
    m, p, _ = image_MPD.shape
    a, b = first.out_channels, second.out_channels
    weight = first.weight.permute(2, 3, 1, 0).reshape(4 * a, -1)
    x = F.linear(image_MPD, weight).view(m, p, 4, a) + first.bias
    x = F.gelu(F.layer_norm(x, (a,), norm.weight, norm.bias, norm.eps))
    weight = second.weight.permute(2, 3, 1, 0).reshape(4 * b, -1)
    x = F.gelu(F.linear(x, weight).view(m, p, 4, 4, b) + second.bias)
    rows_then_columns = x.view(m, p, 2, 2, 2, 2, b).permute(0, 1, 2, 4, 3, 5, 6)
    return rows_then_columns.reshape(m, p, 16, b)
