"""The fusion of SSPrompt: a learned mixture of learnable and frozen default prompts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Granularity = Literal["prompt", "dimension"]
EmbeddingInit = Literal["copy", "normal"]

COPY_NOISE = 0.1
"""Noise on copied embeddings in standard deviations of the default prompts.

With an exact copy ``z = e``, the derivative by ``w`` is ``z - e = 0`` and the weights could not
begin to learn. A tenth leaves the fused prompt, ``w z + (1 - w) e``, within a twentieth of the
default, so training still starts from what the frozen model does without learning.
"""


class Fusion(nn.Module):
    """``w * z + (1 - w) * e`` (arXiv 2401.04651), with ``w = sigmoid(logit)`` in (0, 1).

    ``w`` starts at 1/2, the plain average to which the method falls back without learned weights.

    Args:
        default_ND: Frozen default prompts ``e`` at the start of training; shape and scale of ``z``.
        granularity: One weight per ``prompt`` (the default everywhere) or per ``dimension``.
        init: ``copy``: ``z`` starts as ``e`` plus noise of :data:`COPY_NOISE`; ``normal``: as a
            normal sample with the standard deviation of ``e``.
        generator: Source of that noise.

    Attributes:
        embedding: ``z``, learnable, ``[N, D]``.
        logit: Logit of ``w``, learnable, ``[N, 1]`` or ``[N, D]``.
    """

    def __init__(
        self,
        default_ND: Tensor,
        *,
        granularity: Granularity = "prompt",
        init: EmbeddingInit = "copy",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        default_ND = default_ND.detach().float()
        count, dim = default_ND.shape
        noise_ND = torch.randn(count, dim, generator=generator).to(default_ND.device)
        scale = default_ND.square().mean().sqrt()
        start_ND = scale * noise_ND
        if init == "copy":
            start_ND = default_ND + COPY_NOISE * start_ND
        self.embedding = nn.Parameter(start_ND)
        width = 1 if granularity == "prompt" else dim
        self.logit = nn.Parameter(torch.zeros(count, width, device=default_ND.device))

    @property
    def weight(self) -> Tensor:
        """``w`` in (0, 1), ``[N, 1]`` or ``[N, D]``."""
        return torch.sigmoid(self.logit)

    def forward(self, default_ND: Tensor) -> Tensor:
        """Fuse with the default prompts ``e``, ``[N, D]``."""
        return torch.lerp(default_ND, self.embedding, self.weight)
