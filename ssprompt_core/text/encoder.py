"""What a frozen text encoder must offer; every text encoder passes one contract test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class TextEncoder(ABC):
    """A frozen map from class names to embeddings.

    Attributes:
        name: Registry name.
        dim: Length ``D_text`` of an embedding.
        fingerprint: SHA-256 (hex) of the weights and the tokenisation.
    """

    name: str
    dim: int
    fingerprint: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: ``C`` non-empty strings; equal strings get equal embeddings.

        Returns:
            Float32 tensor ``[C, dim]`` without gradient.
        """
