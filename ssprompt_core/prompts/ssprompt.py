"""SSPrompt: spatial and semantic prompts united into the tokens of every class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssprompt_core.prompts.semantic import TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts, PointPrompts


class SSPrompt(nn.Module):
    """Tokens of class ``c``: the ``N`` spatial prompts, then the semantic prompt of ``c``.

    Learning to Prompt Segment Anything Models (arXiv 2401.04651). Which of the two sides learns is
    decided by the modules it is made of.

    Args:
        spatial: Gives ``[N, D]``: ``SpatialPrompts``, or a default or learned points instead.
        semantic: Gives ``[C, D]``: ``SemanticPrompts``, or the default instead.
    """

    def __init__(self, spatial: GridPrompts | PointPrompts, semantic: TextPrompts) -> None:
        super().__init__()
        self.spatial = spatial
        self.semantic = semantic

    def forward(self) -> Tensor:
        """Tokens, float32 ``[C, N + 1, D]``."""
        spatial_ND: Tensor = self.spatial()
        semantic_CD: Tensor = self.semantic()
        spatial_CND = spatial_ND.expand(len(semantic_CD), -1, -1)
        return torch.cat([spatial_CND, semantic_CD[:, None]], dim=1)
