"""Class names as a frozen text encoder embeds them: what the methods get of the language side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssprompt_core.text.encoder import TextEncoder

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a cropped photo of a {}.",
    "a blurry photo of a {}.",
    "a bright photo of a {}.",
    "there is a {} in the scene.",
)
"""Prompt engineering: captions whose embeddings are averaged (the idea of arXiv 2103.00020, 3.1.4).

A short list for scenes; CLIP's own list of 80 is for pictures of one object.
"""


@dataclass(frozen=True)
class ClassTexts:
    """Embeddings of the class names, computed once per class list and encoder.

    Attributes:
        names: The ``C`` class names.
        plain_CE: Of each name in the encoder's own template, float32 ``[C, D_text]``.
        ensemble_CE: Of each name, the mean over :data:`TEMPLATES`, as long as ``plain_CE`` is.
        source: Builds the encoder; called only by what learns through it.
        fingerprint: SHA-256 (hex) of the encoder.
        encoder: Name of the encoder.
    """

    names: tuple[str, ...]
    plain_CE: Tensor
    ensemble_CE: Tensor
    source: Callable[[], TextEncoder]
    fingerprint: str
    encoder: str = ""

    @classmethod
    def of(cls, source: Callable[[], TextEncoder], names: Sequence[str]) -> ClassTexts:
        """Embed class names.

        Args:
            source: Builds the encoder; must be picklable where texts travel between processes.
            names: The ``C`` class names.
        """
        encoder = source()
        plain_CE = encoder.encode([encoder.template.format(name) for name in names])
        captions = [template.format(name) for name in names for template in TEMPLATES]
        means_CE = encoder.encode(captions).view(len(names), len(TEMPLATES), -1).mean(1)
        # averaging shortens: give each class the length that its plain embedding has
        lengths_C1 = plain_CE.norm(dim=1, keepdim=True)
        ensemble_CE = torch.nn.functional.normalize(means_CE, dim=1) * lengths_C1
        return cls(tuple(names), plain_CE, ensemble_CE, source, encoder.fingerprint, encoder.name)
