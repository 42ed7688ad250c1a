"""Frozen segmenters that run in milliseconds: a tiny ViT SAM and the small SAM, both random."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.models.small_sam import build_small_sam
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.encoder import TextEncoder
from ssprompt_core.text.small import NgramText, SmallTextEncoder
from ssprompt_core.train.data import LabelledEmbeddings

DIM, GRID, PATCH = 16, 6, 16


def tiny_sam(seed: int = 0, dim: int = DIM, grid: int = GRID) -> Sam:
    """A SAM of segment-anything's classes: 96 x 96 images, 6 x 6 x 16 embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        side = grid * PATCH
        sam = Sam(
            image_encoder=ImageEncoderViT(
                img_size=side,
                patch_size=PATCH,
                embed_dim=32,
                depth=2,
                num_heads=2,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=4,
                global_attn_indexes=(1,),
                out_chans=dim,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=dim,
                image_embedding_size=(grid, grid),
                input_image_size=(side, side),
                mask_in_chans=4,
            ),
            mask_decoder=MaskDecoder(
                transformer_dim=dim,
                transformer=TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=4, mlp_dim=32),
                iou_head_hidden_dim=dim,
            ),
        )
        # fresh layers start with zero biases and unit norms, which would hide mistakes with them
        for parameter in sam.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return sam.eval()


def tiny_segmenter(seed: int = 0) -> SamSegmenter:
    """Like ``vit_*``: no native text."""
    return SamSegmenter(tiny_sam(seed), name="tiny")


def small_segmenter(seed: int = 0) -> SamSegmenter:
    """The small SAM with random weights: native text."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = build_small_sam(weights=None)
        for parameter in sam.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return SamSegmenter(sam, name="small", native_text=True)


def random_images(count: int, height: int = 96, width: int = 96) -> list[np.ndarray]:
    rng = np.random.default_rng([count, height, width])
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def coloured_data(
    segmenter: Segmenter, count: int = 4, num_classes: int = 3, side: int = 48, seed: int = 0
) -> LabelledEmbeddings:
    """Pictures of coloured rectangles, encoded, with some ignored pixels."""
    rng = np.random.default_rng([seed])
    colours = rng.integers(0, 256, (num_classes, 3))
    images, labels = [], []
    for _ in range(count):
        label = np.zeros((side, side), np.uint8)
        for c in range(1, num_classes):
            y, x = rng.integers(0, side // 2, 2)
            label[y : y + side // 2, x : x + side // 2] = c
        images.append(colours[label].astype(np.uint8))
        label[0, : side // 2] = 255
        labels.append(label)
    x_B3SS = torch.stack([segmenter.preprocess(image) for image in images])
    return LabelledEmbeddings(
        segmenter.encode_images(x_B3SS), labels, [(side, side) for _ in labels]
    )


def class_texts(plain_CE: torch.Tensor) -> ClassTexts:
    """Class texts with given plain embeddings; nothing can be learned through their encoder."""

    def no_encoder() -> TextEncoder:
        raise AssertionError("these texts have no encoder")

    names = tuple(f"class {c}" for c in range(len(plain_CE)))
    return ClassTexts(names, plain_CE, plain_CE.roll(1, dims=1), no_encoder, "0" * 64)


def small_class_texts(
    dim: int, names: Sequence[str] = ("sky", "road", "car"), seed: int = 0
) -> ClassTexts:
    """Class names through a small text encoder with random weights, which can learn context."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = SmallTextEncoder(NgramText(dim))
    return ClassTexts.of(lambda: encoder, names)
