"""The rows of the comparison that prompt the decoder: which side learns, and what of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ssprompt_core.methods.model import MethodSpec
from ssprompt_core.methods.prompted import PromptedModel
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.fusion import FusionOptions, Learned
from ssprompt_core.prompts.semantic import ContextPrompts, SemanticPrompts, TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts, PointPrompts, SpatialPrompts
from ssprompt_core.prompts.ssprompt import SSPrompt
from ssprompt_core.text.classes import ClassTexts

_PAPER = "arXiv 2401.04651"


@dataclass(frozen=True)
class _Recipe:
    """Where the tokens of a row come from; the build function of its :class:`MethodSpec`."""

    spatial: Literal["grid", "points", "fused"]
    semantic: Literal["names", "templates", "context", "fused"]
    learned: Learned = "both"

    def __call__(
        self, settings: MethodSettings, segmenter: Segmenter, texts: ClassTexts, seed: int
    ) -> PromptedModel:
        options = FusionOptions(
            granularity=settings.weight_granularity,
            init=settings.embedding_init,
            learned=self.learned,
            generator=torch.Generator().manual_seed(seed),
        )
        prompts = SSPrompt(
            self._spatial(settings, segmenter, options),
            self._semantic(settings, segmenter, options, texts),
        )
        return PromptedModel(segmenter, prompts, settings, len(texts.names))

    def _spatial(
        self, settings: MethodSettings, segmenter: Segmenter, options: FusionOptions
    ) -> GridPrompts | PointPrompts:
        if self.spatial == "fused":
            return SpatialPrompts(segmenter, settings.num_prompts, options)
        if self.spatial == "points":
            return PointPrompts(segmenter, settings.num_prompts)
        return GridPrompts(segmenter, settings.num_prompts)

    def _semantic(
        self,
        settings: MethodSettings,
        segmenter: Segmenter,
        options: FusionOptions,
        texts: ClassTexts,
    ) -> TextPrompts:
        if self.semantic == "fused":
            return SemanticPrompts(segmenter, texts.plain_CE, options)
        if self.semantic == "context":
            return ContextPrompts(segmenter, texts, settings.context_length, options.generator)
        if self.semantic == "templates":
            return TextPrompts(segmenter, texts.ensemble_CE)
        return TextPrompts(segmenter, texts.plain_CE)

    def hyperparameters(self) -> tuple[str, ...]:
        """Fields of the settings that play a part."""
        used = ["num_prompts", "decoding"]
        if "fused" in (self.spatial, self.semantic):
            used += ["weight_granularity"] if self.learned != "embedding" else []
            used += ["lr_weight"] if self.learned != "embedding" else []
            used += ["lr_embedding", "embedding_init"] if self.learned != "weight" else []
        if self.spatial == "points":
            used += ["lr_points"]
        if self.semantic == "context":
            used += ["lr_context", "context_length"]
        if self.semantic in ("fused", "context"):
            used += ["lr_map"]
        return tuple(used)


def _row(name: str, recipe: _Recipe, description: str, source: str) -> MethodSpec:
    return MethodSpec(
        name=name,
        description=description,
        source=source,
        hyperparameters=recipe.hyperparameters(),
        uses_support=recipe.spatial != "grid" or recipe.semantic in ("context", "fused"),
        build=recipe,
    )


def _family(
    name: str, what: str, spatial: Literal["grid", "fused"], semantic: Literal["names", "fused"]
) -> tuple[MethodSpec, MethodSpec, MethodSpec]:
    """A row of the paper and its ablation."""
    return (
        _row(
            name,
            _Recipe(spatial, semantic),
            f"{what}: prompt embeddings and their weights are learned.",
            _PAPER,
        ),
        _row(
            f"{name}_embedding_only",
            _Recipe(spatial, semantic, "embedding"),
            f"{what} without learned weights: learned and default embeddings are averaged.",
            f"{_PAPER}, ablation",
        ),
        _row(
            f"{name}_weight_only",
            _Recipe(spatial, semantic, "weight"),
            f"{what} without learned embeddings: only how much of each default is kept.",
            f"{_PAPER}, ablation",
        ),
    )


ZERO_SHOT = _row(
    "zero_shot",
    _Recipe("grid", "names"),
    "Nothing is learned: a grid of points and the class names' text embeddings.",
    f"the frozen model; default prompts of {_PAPER}",
)
TEMPLATE_ENSEMBLE = _row(
    "template_ensemble",
    _Recipe("grid", "templates"),
    "Nothing is learned: text embeddings are averaged over sentence templates.",
    "prompt engineering, arXiv 2103.00020, 3.1.4",
)
XY_POINTS = _row(
    "xy_points",
    _Recipe("points", "names"),
    "The 2-D coordinates of the points are learned, through the frozen spatial encoder.",
    f"the limited search space that {_PAPER} argues against",
)
TOKEN_CONTEXT = _row(
    "token_context",
    _Recipe("grid", "context"),
    "Context tokens before the class names are learned, through the frozen text encoder.",
    "CoOp, arXiv 2109.01134",
)
SPA_ROWS = _family("spa", "SpaPrompt", "fused", "names")
SEM_ROWS = _family("sem", "SemPrompt", "grid", "fused")
SSPROMPT_ROWS = _family("ssprompt", "SSPrompt", "fused", "fused")
