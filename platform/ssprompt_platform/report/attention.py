"""Where the spatial prompts of a finished fit attend, beside the default grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ssprompt_core.analysis.attention import (
    attention_centres,
    attention_distance,
    spatial_attention,
)
from ssprompt_core.prompts.spatial import point_grid
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.figures_attention import AttentionMaps
from ssprompt_platform.report.prompt_tables import Prompts

_MOST_CLASSES = 10
"""Classes whose decoder passes are averaged: each costs a pass of every image in the driver."""


def attention_maps(
    prepared: Prepared, prompts: Prompts, image_id: str, *, one_pass: bool
) -> AttentionMaps:
    """Attention of learned prompts and of a default grid of as many points over one image.

    Args:
        prepared: The study; its store has the image.
        prompts: Tensors of a fit.
        image_id: A test image.
        one_pass: Whether the fit decodes all classes in one pass.

    Raises:
        AttentionUnavailableError: The study's segmenter has no attention that can be read.
    """
    segmenter = prepared.source.build().cpu()
    learned_ND, semantic_CD = prompts["resolved.spatial"], prompts["resolved.semantic"]
    points_N2 = point_grid(len(learned_ND))
    # one pass sees all classes at once anyway; of many passes an even choice stands for all
    most = len(semantic_CD) if one_pass else min(len(semantic_CD), _MOST_CLASSES)
    some = np.linspace(0, len(semantic_CD) - 1, most).round().astype(int)
    embedding_Dhw = prepared.store.get(prepared.dataset.digest(image_id)).float()
    learned, default = (
        spatial_attention(segmenter, embedding_Dhw, ND, CD[some], one_pass=one_pass)
        for ND, CD in (
            (learned_ND, semantic_CD),
            (segmenter.encode_points(points_N2), prompts["resolved.names"]),
        )
    )
    image = prepared.dataset.image(image_id)
    return AttentionMaps(image_id, image, points_N2.numpy(), default.numpy(), learned.numpy())


def attention_rows(maps: AttentionMaps) -> list[dict[str, Any]]:
    """A row per prompt: its grid point and the centre and peak of its attention.

    Positions are in [0, 1] of the padded square; a peak counts in times of an even spread;
    ``moved`` is the share of the attention that lies elsewhere than the default prompt's.
    """
    columns = {"x": maps.points[:, 0], "y": maps.points[:, 1]}
    for name, maps_Nhw in (("default", maps.default), ("learned", maps.learned)):
        centres_N2 = attention_centres(torch.from_numpy(maps_Nhw)).numpy()
        columns[f"{name}_x"], columns[f"{name}_y"] = centres_N2.T
        columns[f"{name}_peak"] = maps_Nhw.max(axis=(1, 2)) * maps_Nhw[0].size
    both = (torch.from_numpy(maps_Nhw) for maps_Nhw in (maps.default, maps.learned))
    columns["moved"] = attention_distance(*both).numpy()
    return [
        {"image": maps.image_id, "prompt": n + 1, **{k: float(v[n]) for k, v in columns.items()}}
        for n in range(len(maps.points))
    ]
