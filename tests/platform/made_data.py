"""A data set made up of a list of classes per image, which knows what was read of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset, Split

NAMES = ("sky", "road", "car")


class MadeDataset(SegmentationDataset):
    """Images of 64 x 64 pixels, the classes of each in stripes; without any, no pixel has one.

    Attributes:
        labels_read: How often the label, or the classes, of each image were asked for.
    """

    name = "made"
    class_names = NAMES
    thing_classes = frozenset({2})

    def __init__(self, splits: Mapping[Split, Mapping[str, Collection[int]]]) -> None:
        self._splits = {split: tuple(images) for split, images in splits.items()}
        self._classes = {i: sorted(c) for images in splits.values() for i, c in images.items()}
        self.labels_read: Counter[str] = Counter()

    def ids(self, split: Split) -> tuple[str, ...]:
        return self._splits.get(split, ())

    def image(self, image_id: str) -> NDArray[np.uint8]:
        seed = int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16)
        noise = np.random.default_rng([seed]).integers(0, 60, (64, 64, 3))
        colours = np.array([[30, 60, 150], [90, 90, 90], [180, 30, 30], [0, 0, 0]])
        stripes = np.where(self._map(image_id) == IGNORE, 3, self._map(image_id))
        return (colours[stripes] + noise).astype(np.uint8)

    def label(self, image_id: str) -> NDArray[np.uint8]:
        self.labels_read[image_id] += 1
        return self._map(image_id)

    def digest(self, image_id: str) -> str:
        return hashlib.sha256(self.image(image_id).tobytes()).hexdigest()

    def _map(self, image_id: str) -> NDArray[np.uint8]:
        classes = self._classes[image_id]
        rows = np.full(64, IGNORE, np.uint8)
        for part, c in zip(np.array_split(np.arange(64), len(classes) or 1), classes, strict=False):
            rows[part] = c
        return np.repeat(rows[:, None], 64, axis=1)


def pool(size: int, prefix: str, seed: int = 0) -> dict[str, list[int]]:
    """Images with one or two of the three classes each, so that no image shows them all."""
    rng = np.random.default_rng([seed])
    return {
        f"{prefix}{n:03d}": rng.choice(3, rng.integers(1, 3), replace=False).tolist()
        for n in range(size)
    }
