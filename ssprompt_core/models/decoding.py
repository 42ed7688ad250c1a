"""Class-conditioned decoding: SAM's mask decoder, batched over images and classes.

The reference is one decoder pass per class: the prompts of class ``c`` are the sparse prompts of a
stock call, and the class's logits are output mask 0 (``multimask_output=False``). The stock decoder
takes one image a call and repeats its embedding for every prompt; this forward uses the same,
unmodified modules and gives the same numbers up to rounding, but computes nothing twice and nothing
unneeded:

* what frozen weights alone decide is kept (:class:`FrozenDecoder`): the positional encoding enters
  projections as a constant (``W (x + pe) = W x + W pe``), and projections are joined;
* before the first "image to tokens" attention the image side is the same for all classes and for
  all steps, so images come with the projections of layer 1 (:class:`FrozenImages`), and the token
  self-attention of layer 1 runs once per class;
* only mask tokens attend in the final attention, only one hypernetwork runs, and only the
  asked-for cells are upscaled: both transposed convolutions have stride = kernel, so a cell's
  4 x 4 logits depend on that cell alone.

The one-pass form (:func:`decode_masks_together`) shares all of this, with one token sequence for
all classes.

Images may form groups of equal size, each with prompts and cells of its own: so several fits share
a pass. A tensor of all groups has one more axis in front, and the images lie group by group.

Image-side activations are kept as ``[.., channels, S]`` (``S = h * w`` cells): splitting heads then
copies nothing. Axis letters: B images, G groups, C classes, P = B * C pairs, T tokens, D channels,
I inner channels of an attention, H heads, d = I / H, S cells, K asked-for cells, M masks of a
sequence.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssprompt_core.models.frozen import FrozenDecoder, FrozenImages, FrozenLayer
from ssprompt_core.models.kernels import (
    cells_to_tokens,
    linear,
    project_cells,
    read_image,
    tokens_to_cells,
)


def decode_masks(
    frozen: FrozenDecoder, images: FrozenImages, tokens_CTD: Tensor, cells_K: Tensor | None = None
) -> Tensor:
    """Mask logits of every class on every image.

    Args:
        frozen: The decoder.
        images: ``B`` images that it prepared.
        tokens_CTD: Sparse prompts of each class, shared by the images; differentiable. With groups
            ``[G, C, T, D]``.
        cells_K: Flat indices of cells in ``[0, h * w)``, int64; None asks for all. With groups
            ``[G, K]``.

    Returns:
        Logits ``[B, C, 4h, 4w]``, or ``[B, C, K, 4, 4]`` with ``cells_K``.
    """
    output_CtD = frozen.output_tD.expand(*tokens_CTD.shape[:-2], -1, -1)
    prompt_CtD = torch.cat([output_CtD, tokens_CTD], dim=-2)
    # the IoU token comes first: mask token 0 is token 1
    return _decode(frozen, images, prompt_CtD, slice(1, 2), cells_K)


def decode_masks_together(
    frozen: FrozenDecoder,
    images: FrozenImages,
    spatial_ND: Tensor,
    semantic_CD: Tensor,
    cells_K: Tensor | None = None,
) -> Tensor:
    """Mask logits of all classes in one pass over an image; SAM was never trained for it.

    The output token of class ``c`` is mask token 0 plus the class's semantic prompt; it attends to
    the other classes' tokens and to the spatial prompts, which all classes share.

    Args:
        frozen: The decoder.
        images: ``B`` images that it prepared.
        spatial_ND: Spatial prompts; differentiable. With groups ``[G, N, D]``.
        semantic_CD: Semantic prompts; differentiable. With groups ``[G, C, D]``.
        cells_K: Cells whose logits are wanted; None asks for all. With groups ``[G, K]``.

    Returns:
        Logits ``[B, C, 4h, 4w]``, or ``[B, C, K, 4, 4]`` with ``cells_K``.
    """
    iou_1D, mask_1D = frozen.output_tD[:1], frozen.output_tD[1:2]
    classes_CD = mask_1D + semantic_CD
    iou_1D = iou_1D.expand(*classes_CD.shape[:-2], -1, -1)
    prompt_1TD = torch.cat([iou_1D, classes_CD, spatial_ND], dim=-2).unsqueeze(-3)
    masks = slice(1, 1 + classes_CD.shape[-2])
    return _decode(frozen, images, prompt_1TD, masks, cells_K)


def _decode(
    frozen: FrozenDecoder,
    images: FrozenImages,
    prompt_CTD: Tensor,
    masks: slice,
    cells_K: Tensor | None,
) -> Tensor:
    """Logits of the tokens ``masks`` of each of ``C`` token sequences, in their order."""
    B = len(images)
    prompt_GCTD = prompt_CTD if prompt_CTD.dim() == 4 else prompt_CTD[None]
    cells_GK = cells_K[None] if cells_K is not None and cells_K.dim() == 1 else cells_K
    token_PMD, image_PKD = _transform(frozen, images, prompt_GCTD, masks, cells_GK)
    hyper_PME = frozen.modules.output_hypernetworks_mlps[0](token_PMD)
    logits_PMK44 = _upscaled_dot(frozen, image_PKD, hyper_PME)
    logits_BCK44 = logits_PMK44.view(B, -1, *logits_PMK44.shape[2:])
    if cells_K is not None:
        return logits_BCK44
    C, (h, w) = logits_BCK44.shape[1], frozen.grid
    return logits_BCK44.view(B, C, h, w, 4, 4).transpose(3, 4).reshape(B, C, 4 * h, 4 * w)


def _transform(
    frozen: FrozenDecoder,
    images: FrozenImages,
    prompt_GCTD: Tensor,
    masks: slice,
    cells_GK: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The two-way transformer: the tokens ``masks`` ``[P, M, D]`` and cells ``[P, K, D]``."""
    transformer = frozen.modules.transformer
    tokens_PTD, image_PSD = _first_layer(transformer.layers[0], images, prompt_GCTD)
    prompt_PTD = _pairs(prompt_GCTD, len(images))
    for layer, constants in zip(transformer.layers[1:], frozen.layers[1:], strict=True):
        tokens_PTD, image_PSD = _later_layer(layer, constants, tokens_PTD, image_PSD, prompt_PTD)
    mask_PMD = tokens_PTD[:, masks]
    update_PMD, image_PKD = _few_tokens_to_image(
        transformer.final_attn_token_to_image,
        mask_PMD + prompt_PTD[:, masks],
        image_PSD,
        frozen.pe_DS,
        cells_GK,
    )
    return transformer.norm_final_attn(mask_PMD + update_PMD), image_PKD


def _first_layer(layer: Any, images: FrozenImages, prompt_GCTD: Tensor) -> tuple[Tensor, Tensor]:
    """Layer 1, whose image side is one per image and whose token side is one per class."""
    B, S, D = images.image.shape
    G, C, T, _ = prompt_GCTD.shape
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    H = to_image.num_heads

    prompt_YTD = prompt_GCTD.flatten(0, 1)
    tokens_YTD = layer.norm1(_self_attention(layer.self_attn, prompt_YTD, prompt_YTD))
    tokens_GCTD = tokens_YTD.view(G, C, T, D)
    q_GCTHd = to_image.q_proj(tokens_GCTD + prompt_GCTD).view(G, C, T, H, -1)
    # all classes' queries of one head side by side: one product per image and head
    q_GHXd = q_GCTHd.permute(0, 3, 1, 2, 4).reshape(G, 1, H, C * T, -1)
    q_ZXd = q_GHXd.expand(-1, B // G, -1, -1, -1).reshape(B * H, C * T, -1)
    k_ZdS, v_ZdS = images.key.view(B * H, -1, S), images.value.view(B * H, -1, S)
    context_BHCTd = tokens_to_cells(q_ZXd, k_ZdS, v_ZdS).view(B, H, C, T, -1)
    update_PTD = to_image.out_proj(_heads_last(context_BHCTd).flatten(0, 1))
    tokens_PTD = layer.norm2(_pairs(tokens_GCTD, B) + update_PTD)
    prompt_PTD = _pairs(prompt_GCTD, B)
    tokens_PTD = layer.norm3(tokens_PTD + _mlp(layer.mlp, tokens_PTD))

    image_PSD = images.image[:, None].expand(-1, C, -1, -1).reshape(B * C, S, D)
    image_PSD = _image_to_tokens(to_tokens, images.query, tokens_PTD, prompt_PTD, image_PSD)
    return tokens_PTD, layer.norm4(image_PSD)


def _later_layer(
    layer: Any, constants: FrozenLayer, tokens_PTD: Tensor, image_PSD: Tensor, prompt_PTD: Tensor
) -> tuple[Tensor, Tensor]:
    """A layer whose image side differs from class to class."""
    P, S, _ = image_PSD.shape
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    H = to_image.num_heads
    k_PIS, v_PIS, q_PIS = project_cells(image_PSD, constants.weight, constants.constant)

    update_PTD = _self_attention(layer.self_attn, tokens_PTD + prompt_PTD, tokens_PTD)
    tokens_PTD = layer.norm1(tokens_PTD + update_PTD)
    q_PHTd = _heads_first(to_image.q_proj(tokens_PTD + prompt_PTD), H)
    context_ZTd = tokens_to_cells(
        q_PHTd.flatten(0, 1), k_PIS.view(P * H, -1, S), v_PIS.view(P * H, -1, S)
    )
    context_PTI = _heads_last(context_ZTd.view(P, H, *context_ZTd.shape[1:]))
    tokens_PTD = layer.norm2(tokens_PTD + to_image.out_proj(context_PTI))
    tokens_PTD = layer.norm3(tokens_PTD + _mlp(layer.mlp, tokens_PTD))
    image_PSD = _image_to_tokens(to_tokens, q_PIS, tokens_PTD, prompt_PTD, image_PSD)
    return tokens_PTD, layer.norm4(image_PSD)


def _self_attention(attention: Any, x_PTD: Tensor, values_PTD: Tensor) -> Tensor:
    """Tokens attend to tokens; keys stand in front, as torch's softmax is slow over few columns."""
    H = attention.num_heads
    q_PHTd = _heads_first(attention.q_proj(x_PTD), H)
    k_PHTd = _heads_first(attention.k_proj(x_PTD), H)
    v_PHTd = _heads_first(attention.v_proj(values_PTD), H)
    scores_PHUT = (k_PHTd * k_PHTd.shape[-1] ** -0.5) @ q_PHTd.transpose(2, 3)
    context_PHTd = scores_PHUT.softmax(dim=-2).transpose(2, 3) @ v_PHTd
    update_PTD: Tensor = attention.out_proj(_heads_last(context_PHTd))
    return update_PTD


def _mlp(block: Any, x_PTD: Tensor) -> Tensor:
    hidden_PTX = block.act(linear(x_PTD, block.lin1.weight, block.lin1.bias))
    return linear(hidden_PTX, block.lin2.weight, block.lin2.bias)


def _image_to_tokens(
    attention: Any, q_XIS: Tensor, tokens_PTD: Tensor, prompt_PTD: Tensor, image_PSD: Tensor
) -> Tensor:
    """Cells attend to tokens; returns the image side with the update.

    Queries are those of the pairs, or of images whose pairs share them.
    """
    H = attention.num_heads
    X, I, S = q_XIS.shape  # noqa: E741
    k_PHTd = _heads_first(attention.k_proj(tokens_PTD + prompt_PTD), H)
    v_PHTd = _heads_first(attention.v_proj(tokens_PTD), H)
    k_ZCTd, v_ZCTd = (
        x.reshape(X, -1, *x.shape[1:]).transpose(1, 2).flatten(0, 1).contiguous()
        for x in (k_PHTd, v_PHTd)
    )
    context_ZCdS = cells_to_tokens(q_XIS.view(X * H, I // H, S), k_ZCTd, v_ZCTd)
    context_XHCdS = context_ZCdS.view(X, H, *context_ZCdS.shape[1:])
    context_PSI = context_XHCdS.permute(0, 2, 4, 1, 3).reshape(-1, S, I)
    return linear(context_PSI, attention.out_proj.weight, attention.out_proj.bias, image_PSD)


def _few_tokens_to_image(
    attention: Any, q_PMD: Tensor, image_PSD: Tensor, pe_DS: Tensor, cells_GK: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A few tokens of a pair attend over its cells, ``[P, M, D]``; cells need no projection.

    ``q . W_k (x + pe)`` equals ``(W_k^T q) . (x + pe)``, and a weighted mean of ``W_v x`` is
    ``W_v`` of the weighted mean; the key bias shifts all scores alike and drops out. The asked-for
    cells are returned as well.
    """
    H = attention.num_heads
    P, M, _ = q_PMD.shape
    q_PMHd = attention.q_proj(q_PMD).unflatten(-1, (H, -1))
    q_PMHd = q_PMHd * q_PMHd.shape[-1] ** -0.5
    k_weight_HdD = attention.k_proj.weight.unflatten(0, (H, -1))
    q_PXD = torch.einsum("pmhd,hdD->pmhD", q_PMHd, k_weight_HdD).flatten(1, 2)
    mean_PXD, image_PKD = read_image(q_PXD, image_PSD, pe_DS, cells_GK)
    v_weight_HdD = attention.v_proj.weight.unflatten(0, (H, -1))
    context_PMHd = torch.einsum("pmhD,hdD->pmhd", mean_PXD.view(P, M, H, -1), v_weight_HdD)
    update_PMD: Tensor = attention.out_proj(context_PMHd.flatten(2) + attention.v_proj.bias)
    return update_PMD, image_PKD


def _upscaled_dot(frozen: FrozenDecoder, image_PKD: Tensor, hyper_PME: Tensor) -> Tensor:
    """Upscale cells to 4 x 4, take the product with the hypernetwork's ``[P, M, K, 4, 4]``."""
    _, norm, activation, _, last_activation = frozen.modules.output_upscaling
    first, second = frozen.upscaling
    x_PKuvE = linear(image_PKD, *first).view(*image_PKD.shape[:2], 2, 2, -1)
    x_PKuvE = F.layer_norm(x_PKuvE, x_PKuvE.shape[-1:], norm.weight, norm.bias, norm.eps)
    x_PKuvX = last_activation(linear(activation(x_PKuvE), *second))
    P, K = x_PKuvX.shape[:2]
    M, E = hyper_PME.shape[1:]
    x_PXE = x_PKuvX.reshape(P, K * 16, E)
    logits_PMX = torch.bmm(x_PXE, hyper_PME.transpose(1, 2)).transpose(1, 2)
    # row of the 4 x 4 block = 2 u + s, column = 2 v + t
    logits_PMKuvst = logits_PMX.reshape(P, M, K, 2, 2, 2, 2)
    return logits_PMKuvst.transpose(4, 5).reshape(P, M, K, 4, 4)


def _pairs(x_GCTD: Tensor, B: int) -> Tensor:
    """Repeat class-wise values for every image of their group, ``[B * C, T, D]``."""
    return x_GCTD[:, None].expand(-1, B // len(x_GCTD), -1, -1, -1).flatten(0, 2)


def _heads_first(x_PTI: Tensor, H: int) -> Tensor:
    """Split heads, ``[P, H, T, d]``."""
    return x_PTI.view(*x_PTI.shape[:2], H, -1).transpose(1, 2)


def _heads_last(x_XHyTd: Tensor) -> Tensor:
    """Join heads: axis 1 goes behind the tokens, ``[X, .., T, I]``."""
    return x_XHyTd.movedim(1, -2).flatten(-2)
