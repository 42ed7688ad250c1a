"""What every row of the comparison is: a few trainable parameters beside a frozen segmenter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.frozen import FrozenImages
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts


class FewShotModel(nn.Module, ABC):
    """Class logits for images of which only the frozen embeddings are seen.

    The module's parameters are the trained ones and no others: the segmenter is held without being
    registered.

    Args:
        segmenter: Frozen.
        num_classes: ``C``.

    Attributes:
        num_classes: ``C``.
    """

    def __init__(self, segmenter: Segmenter, num_classes: int) -> None:
        super().__init__()
        self._frozen = (segmenter,)
        self.num_classes = num_classes

    @property
    def segmenter(self) -> Segmenter:
        """The frozen segmenter, shared by any number of models."""
        return self._frozen[0]

    @property
    def passes(self) -> int:
        """Decoder passes an image: what the memory of a step grows with."""
        return self.num_classes

    def place(self, device: torch.device | str) -> Self:
        """Move the parameters and the segmenter to a device."""
        self.segmenter.to(device)
        return self.to(device)

    def freeze_images(self, embeddings_nDhw: Embeddings) -> FrozenImages | None:
        """Images prepared for many steps on them; see :meth:`Segmenter.freeze_images`."""
        return None

    @abstractmethod
    def class_logits(self, images: Any, cells_P: Tensor | None = None) -> Tensor:
        """Logits of every class.

        Args:
            images: Frozen image embeddings, float32, or what :meth:`freeze_images` gave.
            cells_P: Flat indices of embedding cells, int64; None asks for all.

        Returns:
            ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``.
        """

    def kinship(self) -> Hashable:
        """Equal for models that can share the passes of a decoder; None for one that shares none.

        See :meth:`logits_of_groups`.
        """
        return None

    @staticmethod
    def logits_of_groups(models: Sequence[FewShotModel], images: Any, cells_GP: Tensor) -> Tensor:
        """Logits of ``G`` models of equal :meth:`kinship`, each on images of its own.

        Args:
            models: The models.
            images: As in :meth:`class_logits`, with an axis of the models in front.
            cells_GP: Flat indices of embedding cells of each, int64.

        Returns:
            ``[G, B, C, P, 4, 4]``: the numbers of :meth:`class_logits` up to rounding.
        """
        pairs = zip(models, images, cells_GP, strict=True)
        return torch.stack([model.class_logits(own, cells) for model, own, cells in pairs])

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with ``params`` and ``lr``; empty where nothing is trained."""

    def prepare(self, embeddings_nDhw: Embeddings, labels_nS44: Tensor) -> None:
        """See the support images once before training; most models need not.

        Args:
            embeddings_nDhw: Their frozen embeddings.
            labels_nS44: Their labels by embedding cell, uint8, with 255 for "no class".
        """
        return

    def penalty(self) -> Tensor | None:
        """A differentiable scalar that training adds to the loss, or None."""
        return None

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def export(self) -> dict[str, Tensor]:
        """What was learned, on the CPU: the whole state, and prompts as the decoder gets them."""
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}


Build = Callable[[MethodSettings, Segmenter, ClassTexts, int], FewShotModel]
"""Takes settings, segmenter, class names with their text embeddings, and a seed."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A row of the comparison.

    Attributes:
        name: Registry name.
        description: What it learns, in one sentence.
        source: Where it comes from.
        hyperparameters: Fields of :class:`MethodSettings` that it uses.
        uses_support: Whether support images play a part: such a method is fitted per K and draw.
        build: Makes an untrained model.
    """

    name: str
    description: str
    source: str
    hyperparameters: tuple[str, ...]
    uses_support: bool
    build: Build
