"""The honest baseline that often wins: logistic regression on frozen image embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.methods.cells import channel_moments, upscale_cells
from ssprompt_core.methods.model import FewShotModel, MethodSpec
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts


class LinearProbe(FewShotModel):
    """L2-regularised multinomial logistic regression on standardised embeddings.

    Each embedding cell gets logits from its ``D`` channels, standardised by the support images'
    mean and standard deviation; the logits are resized bilinearly to ``4h x 4w``, in training as
    in prediction. It is fitted by the same loop and losses as the prompts. No prompt and no decoder
    takes part.

    Args:
        segmenter: Frozen; only its grid and channels matter here.
        settings: ``lr_probe`` and ``weight_decay``.
        num_classes: ``C``.
    """

    def __init__(self, segmenter: Segmenter, settings: MethodSettings, num_classes: int) -> None:
        super().__init__(segmenter, num_classes)
        self._settings = settings
        device = next(segmenter.parameters()).device
        self.weight = nn.Parameter(
            torch.zeros(num_classes, segmenter.image_channels, device=device)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes, device=device))
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(segmenter.image_channels, device=device))
        self.register_buffer("deviation", torch.ones(segmenter.image_channels, device=device))

    @torch.no_grad()
    def prepare(self, embeddings_nDhw: Embeddings, labels_nS44: Tensor) -> None:
        """Take mean and standard deviation of the support images' channels."""
        mean_D, deviation_D = channel_moments(embeddings_nDhw)
        self.mean.copy_(mean_D)
        self.deviation.copy_(deviation_D)

    def class_logits(self, embeddings_BDhw: Tensor, cells_P: Tensor | None = None) -> Tensor:
        """Logits ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``."""
        weight_CD = self.weight / self.deviation
        bias_C = self.bias - weight_CD @ self.mean
        # a product: the backward pass of torch's convolution takes several times as long
        B, _, h, w = embeddings_BDhw.shape
        logits_BCS = torch.matmul(weight_CD, embeddings_BDhw.flatten(2)) + bias_C[:, None]
        return upscale_cells(logits_BCS.view(B, -1, h, w), cells_P)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": [self.weight, self.bias], "lr": self._settings.lr_probe}]

    def penalty(self) -> Tensor:
        """``weight_decay / 2`` times the squared norm of the weights, as in ridge regression."""
        return 0.5 * self._settings.weight_decay * self.weight.square().sum()


def _build(
    settings: MethodSettings, segmenter: Segmenter, texts: ClassTexts, seed: int
) -> LinearProbe:
    # convex and started from zero: neither names nor seed play a part
    return LinearProbe(segmenter, settings, len(texts.names))


LINEAR_PROBE = MethodSpec(
    name="linear_probe",
    description="Logistic regression on the frozen image embeddings, without prompts or decoder.",
    source="the usual baseline of frozen features, e.g. arXiv 2103.00020, 3.2",
    hyperparameters=("lr_probe", "weight_decay"),
    uses_support=True,
    build=_build,
)
