"""Where spatial prompts look: their attention to image cells inside SAM's mask decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter


class AttentionUnavailableError(Exception):
    """The segmenter has no decoder whose attention can be read."""


@torch.no_grad()
def spatial_attention(
    segmenter: Segmenter,
    embedding_Dhw: Tensor,
    spatial_ND: Tensor,
    semantic_CD: Tensor,
    *,
    one_pass: bool = False,
) -> Tensor:
    """Attention of each spatial prompt to the cells of an image.

    Read from the token-to-image attention of the decoder's last two-way layer, averaged over its
    heads and over the decoder passes. It is the last place where a spatial prompt reads the image
    and still changes a mask: in the attention after the layers only mask tokens count.

    Args:
        segmenter: A :class:`SamSegmenter`, on the device of the tensors.
        embedding_Dhw: Frozen embedding of one image, float32.
        spatial_ND: Spatial prompts as the decoder gets them, float32.
        semantic_CD: Semantic prompts of the classes to average over: a pass each. One row gives
            the maps of that class.
        one_pass: Whether all classes share one pass, as :meth:`Segmenter.decode_together` does.

    Returns:
        Maps, float32 ``[N, h, w]``, each of sum 1 over the cells of the padded square.

    Raises:
        AttentionUnavailableError: The segmenter is of another kind.
    """
    if not isinstance(segmenter, SamSegmenter):
        raise AttentionUnavailableError(
            "attention can be read of the models small, vit_b, vit_l and vit_h only; this one is "
            f"'{segmenter.name}'"
        )
    decoder: Any = segmenter.mask_decoder
    attention = decoder.transformer.layers[-1].cross_attn_token_to_image
    encoder = segmenter.prompt_encoder
    image_1Dhw = (embedding_Dhw + encoder.no_mask_embed.weight[0][:, None, None])[None]
    pe_1Dhw = encoder.get_dense_pe()
    if one_pass:
        classes_CD = decoder.mask_tokens.weight[:1] + semantic_CD
        passes = [torch.cat([decoder.iou_token.weight, classes_CD, spatial_ND])]
    else:
        output_tD = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        passes = [torch.cat([output_tD, spatial_ND, row_D[None]]) for row_D in semantic_CD]
    count = len(spatial_ND)
    first = passes[0].shape[0] - count - (0 if one_pass else 1)

    inputs: dict[str, Tensor] = {}
    hook = attention.register_forward_pre_hook(
        lambda _, __, named: inputs.update(named), with_kwargs=True
    )
    try:
        total_NS = embedding_Dhw.new_zeros(count, embedding_Dhw[0].numel())
        for tokens_TD in passes:  # one at a time: the maps of all classes may be large
            decoder.transformer(image_1Dhw, pe_1Dhw, tokens_TD[None])
            q_ND = inputs["q"][0, first : first + count]
            total_NS += _head_mean(attention, q_ND, inputs["k"][0])
    finally:
        hook.remove()
    return (total_NS / len(passes)).view(count, *embedding_Dhw.shape[1:])


def attention_centres(maps_Nhw: Tensor) -> Tensor:
    """Mean position (x, y) of each map in [0, 1] of the padded square, ``[N, 2]``."""
    h, w = maps_Nhw.shape[1:]
    x_w = (torch.arange(w, device=maps_Nhw.device) + 0.5) / w
    y_h = (torch.arange(h, device=maps_Nhw.device) + 0.5) / h
    return torch.stack([maps_Nhw.sum(1) @ x_w, maps_Nhw.sum(2) @ y_h], dim=1)


def attention_distance(a_Nhw: Tensor, b_Nhw: Tensor) -> Tensor:
    """Share of each prompt's attention that lies elsewhere in the other map, ``[N]`` in [0, 1].

    The total variation distance: 0 for equal maps, 1 where no cell is attended by both.
    """
    return 0.5 * (a_Nhw - b_Nhw).abs().flatten(1).sum(1)


def _head_mean(attention: Any, q_ND: Tensor, k_SD: Tensor) -> Tensor:
    """Softmax weights of a ``segment_anything`` ``Attention``, averaged over heads, ``[N, S]``."""
    q_HNd = attention.q_proj(q_ND).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
    k_HSd = attention.k_proj(k_SD).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
    scores_HNS = q_HNd @ k_HSd.transpose(1, 2) * q_HNd.shape[-1] ** -0.5
    mean_NS: Tensor = scores_HNS.softmax(dim=-1).mean(0)
    return mean_NS
