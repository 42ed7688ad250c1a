"""The fusion of SSPrompt: a learned mixture of learnable and frozen default prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Granularity = Literal["prompt", "dimension"]
EmbeddingInit = Literal["copy", "normal", "xavier"]
Learned = Literal["both", "embedding", "weight"]

COPY_NOISE = 0.1
"""Noise on copied embeddings in standard deviations of the default prompts.

With an exact copy ``z = e``, the derivative by ``w`` is ``z - e = 0`` and the weights could not
begin to learn. A tenth leaves the fused prompt, ``w z + (1 - w) e``, within a twentieth of the
default, so training still starts from what the frozen model does without learning.
"""


@dataclass(frozen=True)
class FusionOptions:
    """How a :class:`Fusion` starts and which of its two parts learns.

    Attributes:
        granularity: One weight per ``prompt`` (the default everywhere) or per ``dimension``.
        init: How ``z`` starts. ``copy``: as ``e`` plus noise of :data:`COPY_NOISE`; ``normal``: as
            a normal sample with the standard deviation of ``e``; ``xavier``: uniformly in
            ``+-sqrt(6 / (N + D))`` (Glorot and Bengio 2010), whatever the size of ``e``.
        learned: ``both``; or the paper's ablation: ``embedding`` keeps ``w`` at 1/2, so that the
            two embeddings are averaged; ``weight`` has no ``z`` and learns how much of each default
            prompt is kept.
        generator: Source of the noise.
    """

    granularity: Granularity = "prompt"
    init: EmbeddingInit = "copy"
    learned: Learned = "both"
    generator: torch.Generator = field(default_factory=torch.Generator)


class Fusion(nn.Module):
    """``w * z + (1 - w) * e`` (arXiv 2401.04651), with ``w = sigmoid(logit)`` in (0, 1).

    ``w`` starts at 1/2, the plain average to which the method falls back without learned weights.
    Where only the weights learn there is nothing to mix with: ``z`` is 0 and the sum is doubled,
    ``2 (1 - w) e``, so that training starts from the default there too.

    Args:
        default_ND: Frozen default prompts ``e`` at the start of training; shape and scale of ``z``.
        options: See :class:`FusionOptions`.

    Attributes:
        embedding: ``z``, ``[N, D]``: learnable, or 0 where only the weights learn.
        logit: Logit of ``w``, ``[N, 1]`` or ``[N, D]``: learnable, or 0 where only ``z`` learns.
    """

    embedding: Tensor
    logit: Tensor

    def __init__(self, default_ND: Tensor, options: FusionOptions) -> None:
        super().__init__()
        default_ND = default_ND.detach().float()
        count, dim = default_ND.shape
        width = 1 if options.granularity == "prompt" else dim
        logit_NW = torch.zeros(count, width, device=default_ND.device)
        if options.learned == "weight":
            self._gain = 2.0
            self.register_buffer("embedding", torch.zeros_like(default_ND))
        else:
            self._gain = 1.0
            self.embedding = nn.Parameter(_start(default_ND, options))
        if options.learned == "embedding":
            self.register_buffer("logit", logit_NW)
        else:
            self.logit = nn.Parameter(logit_NW)

    @property
    def weight(self) -> Tensor:
        """``w`` in (0, 1), ``[N, 1]`` or ``[N, D]``."""
        return torch.sigmoid(self.logit)

    def forward(self, default_ND: Tensor) -> Tensor:
        """Fuse with the default prompts ``e``, ``[N, D]``."""
        return self._gain * torch.lerp(default_ND, self.embedding, self.weight)


def _start(default_ND: Tensor, options: FusionOptions) -> Tensor:
    if options.init == "xavier":
        start_ND = torch.empty(default_ND.shape)
        bound = math.sqrt(6 / sum(default_ND.shape))
        return start_ND.uniform_(-bound, bound, generator=options.generator).to(default_ND.device)
    noise_ND = torch.randn(default_ND.shape, generator=options.generator).to(default_ND.device)
    start_ND = default_ND.square().mean().sqrt() * noise_ND
    return default_ND + COPY_NOISE * start_ND if options.init == "copy" else start_ND
