"""The embedded data set: procedural scenes of the downstream world, made on demand and kept."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset, Split
from ssprompt_core.data.domains import DOWNSTREAM
from ssprompt_core.data.scenes import draw_scene

VERSION = 1
"""Counts changes of the generator that change pixels; scenes of other versions are not reused."""

_OFFSET: dict[Split, int] = {"train": 0, "val": 1_000_000, "test": 2_000_000}


def folder_name(seed: int) -> str:
    """Name of the folder, in a cache, that keeps the scenes of a seed; none of them is drawn."""
    return f"procedural-{_recipe(seed)[:16]}"


def _recipe(seed: int) -> str:
    recipe = json.dumps([VERSION, asdict(DOWNSTREAM), seed], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()


class ProceduralDataset(SegmentationDataset):
    """Scenes of 96 x 96 pixels, 10 classes: 4 stuff, 6 things.

    Its textures, hues, proportions and class names differ from those that the small SAM was
    pretrained on: a domain shift. The splits are disjoint by construction: scene numbers of one
    never occur in another.

    Args:
        train: Images in the train pool, at most a million.
        val: Images in the validation split.
        test: Images in the test split.
        seed: Which world of scenes; equal seeds give equal images.
        cache: Folder in which scenes are kept as PNG; None draws a scene anew at each reading.
    """

    name = "procedural"
    class_names = DOWNSTREAM.class_names
    thing_classes = frozenset(range(len(DOWNSTREAM.stuff), len(DOWNSTREAM.class_names)))

    def __init__(
        self,
        train: int = 600,
        val: int = 80,
        test: int = 80,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        self._seed = seed
        counts = cast(dict[Split, int], {"train": train, "val": val, "test": test})
        self._ids: dict[Split, tuple[str, ...]] = {
            split: tuple(f"{split}-{i:05d}" for i in range(count))
            for split, count in counts.items()
        }
        self._recipe = _recipe(seed)
        self._folder = cache / folder_name(seed) if cache else None
        # what plans and keys ask of every image, known from its first drawing
        self._digests: dict[str, str] = {}
        self._present: dict[str, frozenset[int]] = {}

    def ids(self, split: Split) -> tuple[str, ...]:
        """Image ids of one split, such as ``train-00007``."""
        return self._ids[split]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The RGB image, uint8 ``[96, 96, 3]``."""
        return self._read(image_id)[0]

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """The class map, uint8 ``[96, 96]``."""
        return self._read(image_id)[1]

    def digest(self, image_id: str) -> str:
        """SHA-256 of the pixels (known from the first reading)."""
        if image_id not in self._digests:
            self._read(image_id)
        return self._digests[image_id]

    def label_digest(self, image_id: str) -> str:
        """SHA-256 of what the scene is made from; it need not be drawn."""
        return hashlib.sha256(f"{self._recipe} {image_id}".encode()).hexdigest()

    def classes_present(self, image_id: str) -> frozenset[int]:
        """Classes with at least one pixel in the image's label (known from the first reading)."""
        if image_id not in self._present:
            self._read(image_id)
        return self._present[image_id]

    def _read(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, classes = self._drawn(image_id)
        if image_id not in self._digests:
            self._digests[image_id] = hashlib.sha256(image.tobytes()).hexdigest()
            found = np.flatnonzero(np.bincount(classes.ravel()))
            self._present[image_id] = frozenset(int(c) for c in found if c != IGNORE)
        return image, classes

    def _drawn(self, image_id: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and class map; kept together as one RGBA picture whose alpha is the class map."""
        path = self._folder / f"{image_id}.png" if self._folder else None
        if path is not None and path.is_file():
            with Image.open(path) as picture:
                both = np.asarray(picture)
            return both[..., :3], both[..., 3]
        split, number = image_id.split("-")
        scene = draw_scene(DOWNSTREAM, self._seed, _OFFSET[cast(Split, split)] + int(number))
        if path is not None:
            _write(path, np.concatenate([scene.image, scene.classes[..., None]], -1))
        return scene.image, scene.classes


def _write(path: Path, both: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # several workers may draw the same scene at once: each writes its own file, the last one stays
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        Image.fromarray(both).save(file, format="PNG", compress_level=1)
    Path(name).replace(path)
