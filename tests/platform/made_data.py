"""A data set made up of a list of classes per image, which knows what was read of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset, Split
from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.sources import SegmenterSource, embed_class_names

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

    def label_digest(self, image_id: str) -> str:
        return hashlib.sha256(self._map(image_id).tobytes()).hexdigest()

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


def encoded(data: SegmentationDataset, folder: Path) -> EmbeddingStore:
    """Embeddings of all images, by the small segmenter."""
    segmenter = SegmenterSource("small", None).build()
    store = EmbeddingStore(folder, segmenter.fingerprint)
    for split in ("train", "val", "test"):
        for image_id in data.ids(split):
            x_B3SS = segmenter.preprocess(data.image(image_id))[None]
            store.put(data.digest(image_id), segmenter.encode_images(x_B3SS)[0])
    return store


def bench_over(data: SegmentationDataset, store: EmbeddingStore) -> Bench:
    """A bench on the CPU whose fits have one short step an epoch."""
    texts = embed_class_names("small", data.class_names, None)
    train = TrainConfig(eval_batch_size=3, steps_per_epoch=1, batch_size=2)
    source = SegmenterSource("small", None)
    return Bench(data, store, source, texts, train, Resources(1, 1, 1, 0.0, "cpu"))
