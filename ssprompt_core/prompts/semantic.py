"""Semantic prompts: what to look for. Class names through a frozen text encoder, and learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import EmbeddingInit, Fusion, Granularity
from ssprompt_core.prompts.spatial import point_grid


class TextPrompts(nn.Module):
    """The frozen default: text embeddings of the class names as prompt tokens.

    A segmenter with native text takes its own text embeddings as they are. Anything else (SAM's
    published weights know no text; the small SAM does not know CLIP's) goes through one linear map
    ``D_text -> D`` without bias. It starts as a fixed (semi-)orthogonal matrix that is the same for
    every seed, scaled so that class tokens are as long as the tokens of points are on average:
    angles between classes survive, and the decoder meets a scale that it knows.

    Args:
        segmenter: Frozen.
        text_CE: Text embeddings of the ``C`` classes, float ``[C, D_text]``.
        train_map: Whether the map is trained where there is one.

    Attributes:
        map: The map, ``[D_text, D]``: parameter, buffer or None.
    """

    def __init__(self, segmenter: Segmenter, text_CE: Tensor, *, train_map: bool = False) -> None:
        super().__init__()
        device = next(segmenter.parameters()).device
        self.text: Tensor
        self.register_buffer("text", text_CE.detach().float().to(device))
        self.map: Tensor | None
        if segmenter.native_text and text_CE.shape[1] == segmenter.text_dim:
            self.map = None
            return
        start_ED = _starting_map(segmenter, self.text)
        if train_map:
            self.map = nn.Parameter(start_ED)
        else:
            self.register_buffer("map", start_ED)

    def default(self) -> Tensor:
        """Class tokens ``e`` before any fusion, ``[C, D]``."""
        return self.text if self.map is None else self.text @ self.map

    def forward(self) -> Tensor:
        """Tokens ``[C, D]``."""
        return self.default()


class SemanticPrompts(TextPrompts):
    """SemPrompt (arXiv 2401.04651): ``t = w * z + (1 - w) * e`` over the class tokens ``e``.

    Where there is a map ``D_text -> D``, it is trained too.

    Args:
        segmenter: Frozen.
        text_CE: Text embeddings of the ``C`` classes, float ``[C, D_text]``.
        granularity: See :class:`Fusion`.
        init: See :class:`Fusion`.
        generator: Source of the noise in ``z``.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        text_CE: Tensor,
        *,
        granularity: Granularity = "prompt",
        init: EmbeddingInit = "copy",
        generator: torch.Generator,
    ) -> None:
        super().__init__(segmenter, text_CE, train_map=True)
        self.fusion = Fusion(
            self.default(), granularity=granularity, init=init, generator=generator
        )

    def forward(self) -> Tensor:
        """Tokens ``t``, ``[C, D]``."""
        fused: Tensor = self.fusion(self.default())
        return fused


@torch.no_grad()
def _starting_map(segmenter: Segmenter, text_CE: Tensor) -> Tensor:
    width, dim = text_CE.shape[1], segmenter.embed_dim
    start_ED = torch.empty(width, dim)
    nn.init.orthogonal_(start_ED, generator=torch.Generator().manual_seed(0))
    start_ED = start_ED.to(text_CE.device)
    length = segmenter.encode_points(point_grid(16).to(text_CE.device)).norm(dim=1).mean()
    mapped_length = (text_CE @ start_ED).norm(dim=1).mean()
    scaled_ED: Tensor = start_ED * (length / mapped_length.clamp_min(1e-12))
    return scaled_ED
