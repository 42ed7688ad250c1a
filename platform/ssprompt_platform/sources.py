"""Builds the data set, the frozen segmenter and the text embeddings that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.data.folder import FolderDataset
from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.errors import UserError
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.encoder import TextEncoder
from ssprompt_core.text.registry import (
    build_text_encoder,
    pinned_text_encoder,
    short_name,
    text_encoder_fingerprint,
)
from ssprompt_platform.config.schema import DataConfig, ModelConfig
from ssprompt_platform.storage import Place
from ssprompt_platform.texts import TextStore


def build_dataset(config: DataConfig, cache: Path | None) -> SegmentationDataset:
    """The configured data set, checked completely and not sealed.

    Args:
        config: The ``data`` group.
        cache: Folder for images that are made on demand; None keeps nothing on disk.

    Raises:
        UserError: A needed key is missing or the data is wrong.
    """
    if config.kind == "procedural":
        return ProceduralDataset(
            train=config.train_images,
            val=config.val_images,
            test=config.test_images,
            seed=config.seed,
            cache=cache,
        )
    for key in ("images", "labels", "classes"):
        if getattr(config, key) is None:
            raise UserError(f"data.kind=folder needs data.{key}, which is not set")
    images, labels, classes = str(config.images), str(config.labels), str(config.classes)
    return FolderDataset(
        Path(images).absolute(),
        Path(labels).absolute(),
        Path(classes).absolute(),
        ignore_ids=config.ignore_ids,
        test=Path(config.test_list).absolute() if config.test_list else (),
        test_fraction=config.test_fraction,
        seed=config.seed,
        name=Path(images).absolute().parent.name or "folder",
    )


@dataclass(frozen=True)
class SegmenterSource:
    """Name and file of a segmenter: what a worker needs to build it."""

    name: str
    checkpoint: Path | None

    @classmethod
    def of(cls, config: ModelConfig) -> SegmenterSource:
        """Read from the ``model`` group."""
        checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
        return cls(config.name, checkpoint)

    def build(self) -> Segmenter:
        """The frozen segmenter, built once per process (workers are reused)."""
        return _build_once(self)


@lru_cache(maxsize=1)
def _build_once(source: SegmenterSource) -> Segmenter:
    return build_segmenter(source.name, source.checkpoint)


def embed_class_names(name: str, class_names: Sequence[str], cache: Place | None) -> ClassTexts:
    """Embed the class names once, in the driver, or read what an earlier study stored.

    Args:
        name: ``model.text_encoder``.
        class_names: The ``C`` class names.
        cache: Folder of stored embeddings; None keeps nothing on disk.

    Raises:
        UserError: The text encoder is unknown, or its folder is not one.
    """
    # workers have other working directories, and a hub name may mean other files tomorrow
    name = pinned_text_encoder(name)
    source = partial(_encoder_once, name)
    if cache is None:
        return _embedded(source, class_names)
    store, fingerprint = TextStore(cache), text_encoder_fingerprint(name)
    stored = store.get(fingerprint, class_names)
    if stored is not None:
        return ClassTexts(tuple(class_names), *stored, source, fingerprint, short_name(name))
    texts = _embedded(source, class_names)
    store.put(texts)
    return texts


def _embedded(source: Callable[[], TextEncoder], class_names: Sequence[str]) -> ClassTexts:
    """Embed on one thread: with another number sums round otherwise, and fits end elsewhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return ClassTexts.of(source, class_names)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _encoder_once(name: str) -> TextEncoder:
    """The frozen text encoder, built once per process."""
    return build_text_encoder(name)
