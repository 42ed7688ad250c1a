"""The training-free baseline: each cell gets the class whose mean embedding is nearest."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.methods.cells import channel_moments, upscale_cells
from ssprompt_core.methods.model import FewShotModel, MethodSpec
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts


class Prototype(FewShotModel):
    """Nearest class prototype by cosine similarity.

    A prototype is the mean of the support images' cells, each cell weighted by its number of pixels
    of the class. Channels are standardised by the support images' mean and deviation first: without
    it, what all cells have in common would dominate the angle. Similarities are resized like the
    logits of the linear probe.

    Args:
        segmenter: Frozen; only its grid and channels matter here.
        num_classes: ``C``.

    Attributes:
        prototypes: Unit vectors, float32 ``[C, D]``; zero for a class without a support pixel,
            whose similarity is then -1.
        mean: Of each channel, float32 ``[D]``.
        deviation: Of each channel, float32 ``[D]``.
    """

    prototypes: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, segmenter: Segmenter, num_classes: int) -> None:
        super().__init__(segmenter, num_classes)
        device = next(segmenter.parameters()).device
        channels = segmenter.image_channels
        self.register_buffer("prototypes", torch.zeros(num_classes, channels, device=device))
        self.register_buffer("mean", torch.zeros(channels, device=device))
        self.register_buffer("deviation", torch.ones(channels, device=device))

    @torch.no_grad()
    def prepare(self, embeddings_nDhw: Embeddings, labels_nS44: Tensor) -> None:
        """Average the support images' cells by class."""
        mean_D, deviation_D = channel_moments(embeddings_nDhw)
        self.mean.copy_(mean_D)
        self.deviation.copy_(deviation_D)
        total_CD = torch.zeros(self.prototypes.shape, dtype=torch.float64)
        classes_C1 = torch.arange(self.num_classes)[:, None, None]
        for embedding_Dhw, labels_S44 in zip(embeddings_nDhw, labels_nS44, strict=True):
            cells_DS = embedding_Dhw.flatten(1).cpu().double()
            labels_SX = labels_S44.flatten(1).cpu().long()
            # shares of pixels: a cell on an edge belongs to both sides a little
            pixels_CS = ((labels_SX == classes_C1) & (labels_SX != IGNORE)).sum(-1).double()
            standard_DS = (cells_DS - mean_D[:, None]) / deviation_D[:, None]
            total_CD += pixels_CS @ standard_DS.T
        self.prototypes.copy_(F.normalize(total_CD, dim=1))

    def class_logits(self, embeddings_BDhw: Tensor, cells_P: Tensor | None = None) -> Tensor:
        """Cosine similarities in [-1, 1], ``[B, C, 4h, 4w]`` or ``[B, C, P, 4, 4]``."""
        standard_BDhw = (embeddings_BDhw - self.mean[:, None, None]) / self.deviation[:, None, None]
        unit_BDhw = F.normalize(standard_BDhw, dim=1)
        # a class without a support pixel has no direction: it must not win by being 0
        bias_C = -(self.prototypes == 0).all(1).float()
        cosine_BChw = F.conv2d(unit_BDhw, self.prototypes[:, :, None, None], bias_C)
        return upscale_cells(cosine_BChw, cells_P)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """None: nothing is trained."""
        return []


def _build(
    settings: MethodSettings, segmenter: Segmenter, texts: ClassTexts, seed: int
) -> Prototype:
    return Prototype(segmenter, len(texts.names))


PROTOTYPE = MethodSpec(
    name="prototype",
    description="Nearest class mean of the frozen image embeddings; no training.",
    source="prototypical networks, arXiv 1703.05175, on frozen features",
    hyperparameters=(),
    uses_support=True,
    build=_build,
)
