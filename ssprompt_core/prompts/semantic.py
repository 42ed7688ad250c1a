"""Semantic prompts: what to look for. Class names through a frozen text encoder, and learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssprompt_core.errors import UserError
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import Fusion, FusionOptions
from ssprompt_core.prompts.spatial import point_grid
from ssprompt_core.text.classes import ClassTexts


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
        options: How ``z`` and ``w`` start and which of them learns.
    """

    def __init__(self, segmenter: Segmenter, text_CE: Tensor, options: FusionOptions) -> None:
        super().__init__(segmenter, text_CE, train_map=True)
        self.fusion = Fusion(self.default(), options)

    def forward(self) -> Tensor:
        """Tokens ``t``, ``[C, D]``."""
        fused: Tensor = self.fusion(self.default())
        return fused


class ContextPrompts(TextPrompts):
    """Context tokens learned through the frozen text encoder, as CoOp does (arXiv 2109.01134).

    The same ``L`` tokens stand before every class name. Every step runs the text encoder forward
    and backward: the expensive route, which also moves all classes at once. Where there is a map
    ``D_text -> D``, it is trained too, as in :class:`SemanticPrompts`.

    Args:
        segmenter: Frozen.
        texts: The class names and their text encoder, whose ``context_dim`` must be a number.
        length: Number ``L`` of context tokens.
        generator: Source of their random start.

    Attributes:
        context: Context tokens, learnable, ``[L, W]``.

    Raises:
        UserError: The text encoder has no token embeddings to learn.
    """

    def __init__(
        self, segmenter: Segmenter, texts: ClassTexts, length: int, generator: torch.Generator
    ) -> None:
        super().__init__(segmenter, texts.plain_CE, train_map=True)
        encoder = texts.source()
        if encoder.context_dim is None:
            raise UserError(
                f"token_context learns through the text encoder, but {encoder.name} has no token "
                "embeddings to learn; use another model.text_encoder or leave the method out"
            )
        start_LW = encoder.starting_context(length, generator).to(self.text.device)
        self.context = nn.Parameter(start_LW)
        # held, not registered: a model's parameters are the trained ones only
        self._frozen = (encoder, texts.names)

    def default(self) -> Tensor:
        """Class tokens with the learned context, ``[C, D]``."""
        encoder, names = self._frozen
        text_CE = encoder.encode_with_context(names, self.context)
        return text_CE if self.map is None else text_CE @ self.map


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
