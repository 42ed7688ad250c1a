"""Methods that learn prompts: zero_shot, xy_points, spa, sem and ssprompt differ in what learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssprompt_core.methods.model import FewShotModel, MethodSpec
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import Fusion
from ssprompt_core.prompts.semantic import SemanticPrompts, TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts, PointPrompts, SpatialPrompts
from ssprompt_core.prompts.ssprompt import SSPrompt
from ssprompt_core.text.classes import ClassTexts

_PAPER = "arXiv 2401.04651"


class PromptedModel(FewShotModel):
    """The segmenter's decoder under the tokens of an :class:`SSPrompt`.

    Args:
        segmenter: Frozen.
        prompts: Gives the tokens of each class.
        settings: Learning rates.
        num_classes: ``C``.
    """

    def __init__(
        self, segmenter: Segmenter, prompts: SSPrompt, settings: MethodSettings, num_classes: int
    ) -> None:
        super().__init__(segmenter, num_classes)
        self.prompts = prompts
        self._settings = settings

    def class_logits(self, embeddings_BDhw: Tensor, cells_P: Tensor | None = None) -> Tensor:
        """Logits ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``."""
        # a few vectors: half precision would save nothing and blur positions
        with torch.autocast(embeddings_BDhw.device.type, enabled=False):
            tokens_CTD = self.prompts()
        return self.segmenter.decode(embeddings_BDhw, tokens_CTD, cells_P=cells_P)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Embeddings, weights, points and the text map, each with its own learning rate."""
        settings, prompts = self._settings, self.prompts
        rates: list[tuple[Tensor, float]] = []
        for side in (prompts.spatial, prompts.semantic):
            if isinstance(side, SpatialPrompts | SemanticPrompts):
                rates.append((side.fusion.embedding, settings.lr_embedding))
                rates.append((side.fusion.logit, settings.lr_weight))
        if isinstance(prompts.spatial, PointPrompts):
            rates.append((prompts.spatial.logit, settings.lr_points))
        if prompts.semantic.map is not None and prompts.semantic.map.requires_grad:
            rates.append((prompts.semantic.map, settings.lr_map))
        return [{"params": [parameter], "lr": rate} for parameter, rate in rates]

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


def _build(
    spatial: str, semantic: str, settings: MethodSettings, segmenter: Segmenter, texts: ClassTexts,
    seed: int,
) -> PromptedModel:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    count = settings.num_prompts
    granularity, init = settings.weight_granularity, settings.embedding_init
    where: GridPrompts | PointPrompts
    if spatial == "learned":
        where = SpatialPrompts(
            segmenter, count, granularity=granularity, init=init, generator=generator
        )
    elif spatial == "points":
        where = PointPrompts(segmenter, count)
    else:
        where = GridPrompts(segmenter, count)
    what: TextPrompts
    if semantic == "learned":
        what = SemanticPrompts(
            segmenter, texts.plain_CE, granularity=granularity, init=init, generator=generator
        )
    else:
        what = TextPrompts(segmenter, texts.plain_CE)
    return PromptedModel(segmenter, SSPrompt(where, what), settings, len(texts.names))


def _spec(
    name: str, spatial: str, semantic: str, description: str, source: str, *fields: str
) -> MethodSpec:
    return MethodSpec(
        name=name,
        description=description,
        source=source,
        hyperparameters=("num_prompts", *fields),
        uses_support=spatial != "default" or semantic != "default",
        build=lambda *arguments: _build(spatial, semantic, *arguments),
    )


_FUSED = ("lr_embedding", "lr_weight", "weight_granularity", "embedding_init")

ZERO_SHOT = _spec(
    "zero_shot",
    "default",
    "default",
    "Nothing is learned: a grid of points and the class names' text embeddings.",
    f"the frozen model; default prompts of {_PAPER}",
)
XY_POINTS = _spec(
    "xy_points",
    "points",
    "default",
    "The 2-D coordinates of the points are learned, through the frozen spatial encoder.",
    f"the limited search space that {_PAPER} argues against",
    "lr_points",
)
SPA = _spec(
    "spa",
    "learned",
    "default",
    "SpaPrompt: spatial prompt embeddings and their weights are learned.",
    _PAPER,
    *_FUSED,
)
SEM = _spec(
    "sem",
    "default",
    "learned",
    "SemPrompt: semantic prompt embeddings and their weights are learned.",
    _PAPER,
    *_FUSED,
    "lr_map",
)
SSPROMPT = _spec(
    "ssprompt",
    "learned",
    "learned",
    "SSPrompt: spatial and semantic prompt embeddings and their weights are learned.",
    _PAPER,
    *_FUSED,
    "lr_map",
)
