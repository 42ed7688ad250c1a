"""Class-conditioned decoding: SAM's mask decoder, batched over images and classes.

The reference is one decoder pass per class: the prompts of class ``c`` are the sparse prompts of a
stock call, and the class's logits are output mask 0 (``multimask_output=False``). The stock decoder
takes one image a call and repeats its embedding for every prompt; this forward uses the same,
unmodified modules and gives the same numbers up to rounding, but computes nothing twice and nothing
unneeded:

* before the first "image to tokens" attention the image side is the same for all classes, so
  layer 1 projects each image once, and its token self-attention once per class;
* the positional encoding enters projections as a constant (``W (x + pe) = W x + W pe``);
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

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode_masks(
    decoder: Any,
    image_BDhw: Tensor,
    image_pe_Dhw: Tensor,
    dense_D: Tensor,
    tokens_CTD: Tensor,
    cells_K: Tensor | None = None,
) -> Tensor:
    """Mask logits of every class on every image.

    Args:
        decoder: A ``segment_anything`` ``MaskDecoder`` with a ``TwoWayTransformer``.
        image_BDhw: Frozen image embeddings, float; gets no gradient.
        image_pe_Dhw: Positional encoding of the cells (``PromptEncoder.get_dense_pe()[0]``).
        dense_D: Dense prompt of a call without a mask (``PromptEncoder.no_mask_embed``).
        tokens_CTD: Sparse prompts of each class, shared by the images; differentiable. With groups
            ``[G, C, T, D]``.
        cells_K: Flat indices of cells in ``[0, h * w)``, int64; None asks for all. With groups
            ``[G, K]``.

    Returns:
        Logits ``[B, C, 4h, 4w]``, or ``[B, C, K, 4, 4]`` with ``cells_K``.
    """
    output_tD = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    output_CtD = output_tD.expand(*tokens_CTD.shape[:-2], -1, -1)
    prompt_CtD = torch.cat([output_CtD, tokens_CTD], dim=-2)
    # the IoU token comes first: mask token 0 is token 1
    return _decode(decoder, image_BDhw, image_pe_Dhw, dense_D, prompt_CtD, slice(1, 2), cells_K)


def decode_masks_together(
    decoder: Any,
    image_BDhw: Tensor,
    image_pe_Dhw: Tensor,
    dense_D: Tensor,
    spatial_ND: Tensor,
    semantic_CD: Tensor,
    cells_K: Tensor | None = None,
) -> Tensor:
    """Mask logits of all classes in one pass over an image; SAM was never trained for it.

    The output token of class ``c`` is mask token 0 plus the class's semantic prompt; it attends to
    the other classes' tokens and to the spatial prompts, which all classes share.

    Args:
        decoder: As for :func:`decode_masks`, like the arguments not named here.
        image_BDhw: Frozen image embeddings.
        image_pe_Dhw: Positional encoding of the cells.
        dense_D: Dense prompt of a call without a mask.
        spatial_ND: Spatial prompts; differentiable. With groups ``[G, N, D]``.
        semantic_CD: Semantic prompts; differentiable. With groups ``[G, C, D]``.
        cells_K: Cells whose logits are wanted; None asks for all. With groups ``[G, K]``.

    Returns:
        Logits ``[B, C, 4h, 4w]``, or ``[B, C, K, 4, 4]`` with ``cells_K``.
    """
    classes_CD = decoder.mask_tokens.weight[:1] + semantic_CD
    iou_1D = decoder.iou_token.weight.expand(*classes_CD.shape[:-2], -1, -1)
    prompt_1TD = torch.cat([iou_1D, classes_CD, spatial_ND], dim=-2).unsqueeze(-3)
    masks = slice(1, 1 + classes_CD.shape[-2])
    return _decode(decoder, image_BDhw, image_pe_Dhw, dense_D, prompt_1TD, masks, cells_K)


def _decode(
    decoder: Any,
    image_BDhw: Tensor,
    image_pe_Dhw: Tensor,
    dense_D: Tensor,
    prompt_CTD: Tensor,
    masks: slice,
    cells_K: Tensor | None,
) -> Tensor:
    """Logits of the tokens ``masks`` of each of ``C`` token sequences, in their order."""
    B, _, h, w = image_BDhw.shape
    prompt_GCTD = prompt_CTD if prompt_CTD.dim() == 4 else prompt_CTD[None]
    image_BSD = (image_BDhw.detach() + dense_D[:, None, None]).flatten(2).transpose(1, 2)
    pe_DS = image_pe_Dhw.flatten(1)
    transformer = decoder.transformer
    token_PMD, image_PSD = _transform(transformer, image_BSD, pe_DS, prompt_GCTD, masks)
    hyper_PME = decoder.output_hypernetworks_mlps[0](token_PMD)
    if cells_K is not None:
        image_PSD = _pick_cells(image_PSD, cells_K)
    logits_PMK44 = _upscaled_dot(decoder.output_upscaling, image_PSD, hyper_PME)
    logits_BCK44 = logits_PMK44.view(B, -1, *logits_PMK44.shape[2:])
    if cells_K is not None:
        return logits_BCK44
    C = logits_BCK44.shape[1]
    return logits_BCK44.view(B, C, h, w, 4, 4).transpose(3, 4).reshape(B, C, 4 * h, 4 * w)


def _pick_cells(image_PSD: Tensor, cells_K: Tensor) -> Tensor:
    """The asked-for cells, ``[P, K, D]``, of each group its own."""
    if cells_K.dim() == 1:
        return image_PSD.index_select(1, cells_K)
    parts = image_PSD.split(len(image_PSD) // len(cells_K))
    return torch.cat([part.index_select(1, k) for part, k in zip(parts, cells_K, strict=True)])


def _transform(
    transformer: Any, image_BSD: Tensor, pe_DS: Tensor, prompt_GCTD: Tensor, masks: slice
) -> tuple[Tensor, Tensor]:
    """The two-way transformer: the tokens ``masks`` ``[P, M, D]`` and image side ``[P, S, D]``."""
    tokens_PTD, image_PSD = _first_layer(transformer.layers[0], image_BSD, pe_DS, prompt_GCTD)
    prompt_PTD = _pairs(prompt_GCTD, len(image_BSD))
    for layer in transformer.layers[1:]:
        tokens_PTD, image_PSD = _later_layer(layer, tokens_PTD, image_PSD, pe_DS, prompt_PTD)
    mask_PMD, mask_pe_PMD = tokens_PTD[:, masks], prompt_PTD[:, masks]
    attention = transformer.final_attn_token_to_image
    update_PMD = _few_tokens_to_image(attention, mask_PMD + mask_pe_PMD, image_PSD, pe_DS)
    return transformer.norm_final_attn(mask_PMD + update_PMD), image_PSD


def _first_layer(
    layer: Any, image_BSD: Tensor, pe_DS: Tensor, prompt_GCTD: Tensor
) -> tuple[Tensor, Tensor]:
    """Layer 1, whose image side is one per image and whose token side is one per class."""
    B, S, D = image_BSD.shape
    G, C, T, _ = prompt_GCTD.shape
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    H = to_image.num_heads
    # the image side is frozen here: no gradient, no graph
    k_BIS, v_BIS, q_BIS = _project_image(layer, image_BSD, pe_DS)

    prompt_YTD = prompt_GCTD.flatten(0, 1)
    tokens_YTD = layer.norm1(layer.self_attn(q=prompt_YTD, k=prompt_YTD, v=prompt_YTD))
    tokens_GCTD = tokens_YTD.view(G, C, T, D)
    q_GCTHd = to_image.q_proj(tokens_GCTD + prompt_GCTD).view(G, C, T, H, -1)
    # all classes' queries of one head side by side: one product per image and head
    q_GHXd = q_GCTHd.permute(0, 3, 1, 2, 4).reshape(G, 1, H, C * T, -1)
    q_ZXd = q_GHXd.expand(-1, B // G, -1, -1, -1).reshape(B * H, C * T, -1)
    context_ZXd = _attend(q_ZXd, k_BIS.view(B * H, -1, S), v_BIS.view(B * H, -1, S))
    context_BCTHd = context_ZXd.view(B, H, C, T, -1).permute(0, 2, 3, 1, 4)
    update_PTD = to_image.out_proj(context_BCTHd.reshape(B * C, T, -1))
    tokens_PTD = layer.norm2(_pairs(tokens_GCTD, B) + update_PTD)
    prompt_PTD = _pairs(prompt_GCTD, B)
    tokens_PTD = layer.norm3(tokens_PTD + layer.mlp(tokens_PTD))

    q_PIS = q_BIS[:, None].expand(-1, C, -1, -1).reshape(B * C, -1, S)
    residual_BSD = image_BSD + to_tokens.out_proj.bias
    residual_PSD = residual_BSD[:, None].expand(-1, C, -1, -1).reshape(B * C, S, D)
    image_PSD = _image_to_tokens(to_tokens, q_PIS, tokens_PTD, prompt_PTD, residual_PSD)
    return tokens_PTD, layer.norm4(image_PSD)


def _later_layer(
    layer: Any, tokens_PTD: Tensor, image_PSD: Tensor, pe_DS: Tensor, prompt_PTD: Tensor
) -> tuple[Tensor, Tensor]:
    """A layer whose image side differs from class to class."""
    P, S, _ = image_PSD.shape
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    H = to_image.num_heads
    k_PIS, v_PIS, q_PIS = _project_image(layer, image_PSD, pe_DS)

    x_PTD = tokens_PTD + prompt_PTD
    tokens_PTD = layer.norm1(tokens_PTD + layer.self_attn(q=x_PTD, k=x_PTD, v=tokens_PTD))
    q_ZTd = _heads_first(to_image.q_proj(tokens_PTD + prompt_PTD), H)
    context_ZTd = _attend(q_ZTd, k_PIS.view(P * H, -1, S), v_PIS.view(P * H, -1, S))
    context_PTI = context_ZTd.view(P, H, *context_ZTd.shape[1:]).transpose(1, 2).flatten(2)
    tokens_PTD = layer.norm2(tokens_PTD + to_image.out_proj(context_PTI))
    tokens_PTD = layer.norm3(tokens_PTD + layer.mlp(tokens_PTD))

    residual_PSD = image_PSD + to_tokens.out_proj.bias
    image_PSD = _image_to_tokens(to_tokens, q_PIS, tokens_PTD, prompt_PTD, residual_PSD)
    return tokens_PTD, layer.norm4(image_PSD)


def _project_image(layer: Any, image_XSD: Tensor, pe_DS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values for the tokens and queries to the tokens, ``[X, I, S]`` each."""
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    k_XIS = _project_cells(to_image.k_proj, image_XSD, pe_DS)
    v_XIS = _project_cells(to_image.v_proj, image_XSD, None)
    q_XIS = _project_cells(to_tokens.q_proj, image_XSD, pe_DS)
    return k_XIS, v_XIS, q_XIS


def _project_cells(projection: Any, image_XSD: Tensor, pe_DS: Tensor | None) -> Tensor:
    """``W (x + pe) + b`` of every cell, ``[X, I, S]``; ``W pe + b`` is the same for all."""
    constant = projection.bias[:, None]
    if pe_DS is not None:
        constant = torch.addmm(constant, projection.weight, pe_DS)
    weight_XID = projection.weight.expand(len(image_XSD), -1, -1)
    return torch.baddbmm(constant, weight_XID, image_XSD.transpose(1, 2))


def _attend(q_ZTd: Tensor, k_ZdS: Tensor, v_ZdS: Tensor) -> Tensor:
    """Softmax attention of tokens over cells, ``[Z, T, d]``."""
    scores_ZTS = torch.bmm(q_ZTd * q_ZTd.shape[-1] ** -0.5, k_ZdS)
    return torch.bmm(scores_ZTS.softmax(dim=-1), v_ZdS.transpose(1, 2))


def _image_to_tokens(
    attention: Any, q_PIS: Tensor, tokens_PTD: Tensor, prompt_PTD: Tensor, residual_PSD: Tensor
) -> Tensor:
    """Cells attend to tokens; the residual (with the output bias in it) is added."""
    H = attention.num_heads
    P, I, S = q_PIS.shape  # noqa: E741
    k_ZTd = _heads_first(attention.k_proj(tokens_PTD + prompt_PTD), H)
    v_ZTd = _heads_first(attention.v_proj(tokens_PTD), H)
    scores_ZTS = torch.bmm(k_ZTd * math.sqrt(H / I), q_PIS.reshape(P * H, I // H, S))
    context_ZdS = torch.bmm(v_ZTd.transpose(1, 2), scores_ZTS.softmax(dim=1))
    weight_PID = attention.out_proj.weight.t().expand(P, -1, -1)
    return torch.baddbmm(residual_PSD, context_ZdS.view(P, I, S).transpose(1, 2), weight_PID)


def _few_tokens_to_image(attention: Any, q_PMD: Tensor, image_PSD: Tensor, pe_DS: Tensor) -> Tensor:
    """A few tokens of a pair attend over its cells, ``[P, M, D]``; cells need no projection.

    ``q . W_k (x + pe)`` equals ``(W_k^T q) . (x + pe)``, and a weighted mean of ``W_v x`` is
    ``W_v`` of the weighted mean; the key bias shifts all scores alike and drops out.
    """
    H = attention.num_heads
    P, M, _ = q_PMD.shape
    q_PMHd = attention.q_proj(q_PMD).unflatten(-1, (H, -1))
    q_PMHd = q_PMHd * q_PMHd.shape[-1] ** -0.5
    k_weight_HdD = attention.k_proj.weight.unflatten(0, (H, -1))
    q_PXD = torch.einsum("pmhd,hdD->pmhD", q_PMHd, k_weight_HdD).flatten(1, 2)
    scores_PXS = torch.baddbmm(q_PXD @ pe_DS, q_PXD, image_PSD.transpose(1, 2))
    mean_PMHD = torch.bmm(scores_PXS.softmax(dim=-1), image_PSD).view(P, M, H, -1)
    v_weight_HdD = attention.v_proj.weight.unflatten(0, (H, -1))
    context_PMHd = torch.einsum("pmhD,hdD->pmhd", mean_PMHD, v_weight_HdD)
    update_PMD: Tensor = attention.out_proj(context_PMHd.flatten(2) + attention.v_proj.bias)
    return update_PMD


def _upscaled_dot(upscaling: Any, image_PKD: Tensor, hyper_PME: Tensor) -> Tensor:
    """Upscale cells to 4 x 4, take the product with the hypernetwork's ``[P, M, K, 4, 4]``."""
    first, norm, activation, second, last_activation = upscaling
    x_PKuvE = _upscale_cells(first, image_PKD)
    x_PKuvE = F.layer_norm(x_PKuvE, x_PKuvE.shape[-1:], norm.weight, norm.bias, norm.eps)
    x_PKuvstE = last_activation(_upscale_cells(second, activation(x_PKuvE)))
    P, K = x_PKuvstE.shape[:2]
    M = hyper_PME.shape[1]
    x_PXE = x_PKuvstE.reshape(P, K * 16, -1)
    logits_PMX = torch.bmm(x_PXE, hyper_PME.transpose(1, 2)).transpose(1, 2)
    # row of the 4 x 4 block = 2 u + s, column = 2 v + t
    logits_PMKuvst = logits_PMX.reshape(P, M, K, 2, 2, 2, 2)
    return logits_PMKuvst.transpose(4, 5).reshape(P, M, K, 4, 4)


def _upscale_cells(convolution: Any, x_XD: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a product: ``[.., D]`` -> ``[.., 2, 2, E]``."""
    weight_YD = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    bias_Y = convolution.bias.repeat(4)
    return F.linear(x_XD, weight_YD, bias_Y).view(*x_XD.shape[:-1], 2, 2, -1)


def _pairs(x_GCTD: Tensor, B: int) -> Tensor:
    """Repeat class-wise values for every image of their group, ``[B * C, T, D]``."""
    return x_GCTD[:, None].expand(-1, B // len(x_GCTD), -1, -1, -1).flatten(0, 2)


def _heads_first(x_PTI: Tensor, H: int) -> Tensor:
    """Split heads, ``[P * H, T, d]``."""
    P, T, I = x_PTI.shape  # noqa: E741
    return x_PTI.view(P, T, H, I // H).transpose(1, 2).reshape(P * H, T, I // H)
