"""Which images of a study are encoded already; asked before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_platform.embeddings import EmbeddingStore


@dataclass(frozen=True)
class Encoded:
    """What encoding found to do: images of the study, of these stored already, encoder calls."""

    images: int
    cached: int
    encoder_calls: int


def missing_images(
    dataset: SegmentationDataset, image_ids: Iterable[str], store: EmbeddingStore
) -> list[str]:
    """Images without a stored embedding; of equal pictures only the first."""
    first_of_digest: dict[str, str] = {}
    for image_id in image_ids:
        first_of_digest.setdefault(dataset.digest(image_id), image_id)
    stored = store.stored(first_of_digest)
    return [image_id for digest, image_id in first_of_digest.items() if digest not in stored]
