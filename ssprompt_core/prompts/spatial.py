"""Spatial prompts: where to look. A grid of points, learned points, or learned embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import Fusion, FusionOptions


def point_grid(count: int) -> Tensor:
    """``N`` points that cover the unit square evenly, (x, y) in (0, 1), float32 ``[N, 2]``.

    Rows lie at the centres of equal bands, as many as make the cells nearly square; points lie at
    the centres of equal parts of their row. For a square ``N`` this is the grid of SAM's automatic
    mask generator; otherwise rows differ by at most one point.

    Args:
        count: ``N``, at least 1.
    """
    if count < 1:
        raise ValueError(f"a grid needs at least one point, not {count}")
    rows = max(1, round(math.sqrt(count)))
    points = []
    for row in range(rows):
        in_row = (row + 1) * count // rows - row * count // rows
        y = (row + 0.5) / rows
        points += [((column + 0.5) / in_row, y) for column in range(in_row)]
    return torch.tensor(points, dtype=torch.float32)


class GridPrompts(nn.Module):
    """The frozen default: ``N`` grid points through the frozen spatial encoder."""

    def __init__(self, segmenter: Segmenter, count: int) -> None:
        super().__init__()
        device = next(segmenter.parameters()).device
        self.default: Tensor
        with torch.no_grad():
            tokens_ND = segmenter.encode_points(point_grid(count).to(device))
        self.register_buffer("default", tokens_ND)

    def forward(self) -> Tensor:
        """Tokens ``[N, D]``."""
        return self.default


class SpatialPrompts(GridPrompts):
    """SpaPrompt (arXiv 2401.04651): ``s = w * z + (1 - w) * e`` over the encoded grid ``e``.

    Args:
        segmenter: Frozen; its spatial encoder runs once, here.
        count: Number ``N`` of prompts.
        options: How ``z`` and ``w`` start and which of them learns.
    """

    def __init__(self, segmenter: Segmenter, count: int, options: FusionOptions) -> None:
        super().__init__(segmenter, count)
        self.fusion = Fusion(self.default, options)

    def forward(self) -> Tensor:
        """Tokens ``s``, ``[N, D]``."""
        fused: Tensor = self.fusion(self.default)
        return fused


class PointPrompts(nn.Module):
    """Learned 2-D coordinates through the frozen spatial encoder: the limited search space.

    Coordinates are sigmoids of learnable logits, so they stay inside the padded square; they start
    on the grid.

    Attributes:
        logit: Logits of the coordinates, learnable, ``[N, 2]``.
    """

    def __init__(self, segmenter: Segmenter, count: int) -> None:
        super().__init__()
        device = next(segmenter.parameters()).device
        self.logit = nn.Parameter(torch.logit(point_grid(count)).to(device))
        # held, not registered: a model's parameters are the trained ones only
        self._frozen = (segmenter,)

    @property
    def points(self) -> Tensor:
        """Positions (x, y) in (0, 1), ``[N, 2]``."""
        return torch.sigmoid(self.logit)

    def forward(self) -> Tensor:
        """Tokens ``[N, D]``."""
        return self._frozen[0].encode_points(self.points)
