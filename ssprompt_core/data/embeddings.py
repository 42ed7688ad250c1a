"""Frozen embeddings of several images, which need not lie together in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class MappedEmbeddings:
    """Embeddings that stay where they are, as in memory-mapped files, until a step asks for some.

    It reads as the float32 tensor ``[n, D, h, w]`` that stacking them all would give: what is
    picked is copied, what is not is never touched, and all who map the same files share them.

    Args:
        images: At least one tensor ``[D, h, w]``, all of one shape and type, on the CPU; float32,
            or float16 that is widened where it is read.
    """

    device = torch.device("cpu")

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._images = tuple(images)
        self.shape = torch.Size((len(self._images), *self._images[0].shape))

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        """Each image's embedding, float32 ``[D, h, w]``."""
        return (image.float() for image in self._images)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Tensor:
        """Some of them, copied together, float32 ``[m, D, h, w]``; numbers as of a tensor."""
        if isinstance(index, slice):
            picked = list(self._images[index])
        else:
            numbers = index.tolist() if isinstance(index, Tensor) else index
            picked = [self._images[number] for number in numbers]
        return torch.stack(picked).float() if picked else torch.empty(0, *self.shape[1:])

    def numel(self) -> int:
        """Values in all."""
        return math.prod(self.shape)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
        """All of them as one tensor of a device, moved image by image."""
        whole = torch.empty(self.shape, dtype=dtype, device=device)
        for place, image in zip(whole, self._images, strict=True):
            place.copy_(image)
        return whole


Embeddings = Tensor | MappedEmbeddings
"""Frozen embeddings ``[n, D, h, w]``, whole or where they are kept."""
