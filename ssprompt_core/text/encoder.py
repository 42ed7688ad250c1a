"""What a frozen text encoder must offer; every text encoder passes one contract test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ssprompt_core.errors import UserError


class TextEncoder(ABC):
    """A frozen map from texts to embeddings.

    Attributes:
        name: Registry name.
        dim: Length ``D_text`` of an embedding.
        fingerprint: SHA-256 (hex) of the weights and the tokenisation.
        template: What a class name is put into before it is embedded, with ``{}`` for the name.
        context_dim: Length ``W`` of a token embedding, or None where context cannot be learned.
    """

    name: str
    dim: int
    fingerprint: str
    template: str = "{}"
    context_dim: int | None = None

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: ``C`` non-empty strings; equal strings get equal embeddings.

        Returns:
            Float32 tensor ``[C, dim]`` without gradient.

        Raises:
            UserError: A text has no word in it.
        """

    def starting_context(self, length: int, generator: torch.Generator) -> Tensor:
        """Random context tokens of the usual size of a token embedding, float32 ``[L, W]``.

        Only where :attr:`context_dim` is a number.
        """
        raise NotImplementedError(f"{self.name} has no token embeddings to learn")

    def encode_with_context(self, texts: Sequence[str], context_LW: Tensor) -> Tensor:
        """Embed texts behind learned context tokens (CoOp, arXiv 2109.01134).

        Only where :attr:`context_dim` is a number.

        Args:
            texts: ``C`` class names, without a template.
            context_LW: Token embeddings put in front of each name; differentiable.

        Returns:
            Float32 tensor ``[C, dim]``, differentiable by the context.
        """
        raise NotImplementedError(f"{self.name} has no token embeddings to learn")


def refuse_empty(texts: Sequence[str]) -> None:
    """Check that there is something to embed in every text.

    Raises:
        UserError: A text has no word in it.
    """
    for text in texts:
        if not text.strip():
            raise UserError("a class name is empty; the text encoder needs at least one word")
