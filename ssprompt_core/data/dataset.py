"""What a segmentation data set must offer a study; every data set passes one contract test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]

IGNORE = 255
"""Label value of pixels that belong to no class: never trained on, never scored."""


class SegmentationDataset(ABC):
    """Images with a class map each, in disjoint splits.

    Image ids are strings that are unique over all splits. Labels are class indices in
    ``[0, len(class_names))`` or :data:`IGNORE`.
    """

    name: str
    class_names: tuple[str, ...]
    thing_classes: frozenset[int] = frozenset()
    """Indices of countable (foreground) classes; empty where the data set does not say."""

    @abstractmethod
    def ids(self, split: Split) -> tuple[str, ...]:
        """Image ids of one split, in a fixed order."""

    @abstractmethod
    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The RGB image, uint8 ``[H, W, 3]``."""

    @abstractmethod
    def label(self, image_id: str) -> NDArray[np.uint8]:
        """The class map, uint8 ``[H, W]`` with classes and :data:`IGNORE`."""

    @abstractmethod
    def digest(self, image_id: str) -> str:
        """SHA-256 (hex) of the image content: equal digests mean equal pixels."""

    @abstractmethod
    def label_digest(self, image_id: str) -> str:
        """SHA-256 (hex) for the class map: equal digests mean equal labels.

        It notices that labels were changed and tells nothing else of them, so it may be asked for
        where labels may not.
        """

    def classes_present(self, image_id: str) -> frozenset[int]:
        """Classes with at least one pixel in the image's label."""
        return frozenset(int(c) for c in np.unique(self.label(image_id)) if c != IGNORE)
