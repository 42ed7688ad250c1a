"""The model of all methods that prompt the decoder: what its tokens are is up to its prompts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.frozen import FrozenImages, Images
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import Fusion
from ssprompt_core.prompts.spatial import PointPrompts
from ssprompt_core.prompts.ssprompt import SSPrompt

_RATES = {
    "fusion.embedding": "lr_embedding",
    "fusion.logit": "lr_weight",
    "spatial.logit": "lr_points",
    "semantic.context": "lr_context",
    "semantic.map": "lr_map",
}
"""End of a parameter's name -> the learning rate that it follows."""


class PromptedModel(FewShotModel):
    """The segmenter's decoder under the tokens of an :class:`SSPrompt`.

    Args:
        segmenter: Frozen.
        prompts: Gives the tokens of each class.
        settings: Learning rates and the way of decoding.
        num_classes: ``C``.
    """

    def __init__(
        self, segmenter: Segmenter, prompts: SSPrompt, settings: MethodSettings, num_classes: int
    ) -> None:
        super().__init__(segmenter, num_classes)
        self.prompts = prompts
        self._settings = settings

    @property
    def passes(self) -> int:
        """One for each class, or one for all."""
        return 1 if self._settings.decoding == "one_pass" else self.num_classes

    def freeze_images(self, embeddings_nDhw: Embeddings) -> FrozenImages | None:
        """What the decoder makes of them whatever the prompts."""
        return self.segmenter.freeze_images(embeddings_nDhw)

    def class_logits(self, images: Images, cells_P: Tensor | None = None) -> Tensor:
        """Logits ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``."""
        # a few vectors: half precision would save nothing and blur positions
        with torch.autocast(images.device.type, enabled=False):
            tokens_CTD = self.prompts()
        if self._settings.decoding == "one_pass":
            spatial_ND, semantic_CD = tokens_CTD[0, :-1], tokens_CTD[:, -1]
            return self.segmenter.decode_together(images, spatial_ND, semantic_CD, cells_P=cells_P)
        return self.segmenter.decode(images, tokens_CTD, cells_P=cells_P)

    def kinship(self) -> Hashable:
        """The segmenter, the way of decoding, and the number of classes and prompts.

        Learning rates, starts and even what is learned may differ: the decoder sees tokens.
        """
        with torch.no_grad():
            return id(self.segmenter), self._settings.decoding, tuple(self.prompts().shape)

    @staticmethod
    def logits_of_groups(
        models: Sequence[FewShotModel], images: Images, cells_GP: Tensor
    ) -> Tensor:
        """Logits ``[G, B, C, P, 4, 4]``: tokens are made model by model and decoded in one go."""
        first = models[0]
        assert isinstance(first, PromptedModel)
        with torch.autocast(images.device.type, enabled=False):
            tokens_GCTD = torch.stack(
                [model.prompts() for model in models if isinstance(model, PromptedModel)]
            )
        return first.segmenter.decode_groups(
            images,
            tokens_GCTD,
            cells_GP,
            one_pass=first._settings.decoding == "one_pass",
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Embeddings, weights, points, context and the text map, each with its learning rate."""
        return [
            {"params": [parameter], "lr": getattr(self._settings, rate)}
            for name, parameter in self.prompts.named_parameters()
            for ending, rate in _RATES.items()
            if name.endswith(ending)
        ]

    def export(self) -> dict[str, Tensor]:
        """The state, and ``resolved.*``: tokens, weights and points as the decoder gets them."""
        prompts = self.prompts
        resolved: dict[str, Tensor] = {
            "spatial": prompts.spatial(),
            "semantic": prompts.semantic(),
        }
        for name, side in (("spatial", prompts.spatial), ("semantic", prompts.semantic)):
            fusion = getattr(side, "fusion", None)
            if isinstance(fusion, Fusion):
                resolved[f"{name}_weight"] = fusion.weight
        if isinstance(prompts.spatial, PointPrompts):
            resolved["points"] = prompts.spatial.points
        tensors = super().export()
        for name, value in resolved.items():
            tensors[f"resolved.{name}"] = value.detach().cpu().clone()
        return tensors
