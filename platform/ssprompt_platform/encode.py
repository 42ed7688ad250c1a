"""Encodes the images of a study that the store lacks, each exactly once, on all workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_platform.cluster import Resources, limit_threads
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.encoded import Encoded, missing_images
from ssprompt_platform.metrics.names import ENCODED
from ssprompt_platform.metrics.recorder import count as count_metric
from ssprompt_platform.progress import Progress
from ssprompt_platform.sources import SegmenterSource


def encode_missing(
    dataset: SegmentationDataset,
    image_ids: Sequence[str],
    store: EmbeddingStore,
    source: SegmenterSource,
    resources: Resources,
    batch_size: int,
    progress: Progress,
) -> Encoded:
    """Encode what the store lacks with one actor per worker; needs a connected Ray."""
    missing = missing_images(dataset, image_ids, store)
    with progress.phase("encoding images", len(missing)) as advance:
        if missing:
            dataset_ref = ray.put(dataset)
            batches = [
                missing[start : start + batch_size] for start in range(0, len(missing), batch_size)
            ]
            actor = ray.remote(_Encoder).options(
                num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker
            )
            count = min(resources.workers, len(batches))
            actors = [actor.remote(dataset_ref, store, source, resources) for _ in range(count)]
            pool: Any = ray.util.ActorPool(actors)
            for done in pool.map_unordered(lambda a, ids: a.encode.remote(ids), batches):
                advance(done)
                count_metric(ENCODED, done)
            for each in actors:
                ray.kill(each)
    return Encoded(len(set(image_ids)), len(set(image_ids)) - len(missing), len(missing))


class _Encoder:
    """One worker with the whole segmenter; nothing else in the platform runs an image encoder."""

    def __init__(
        self,
        dataset: SegmentationDataset,
        store: EmbeddingStore,
        source: SegmenterSource,
        resources: Resources,
    ) -> None:
        limit_threads(resources.cpus_per_worker)
        self._dataset, self._store, self._device = dataset, store, resources.device
        self._segmenter = source.build().to(self._device)

    def encode(self, image_ids: Sequence[str]) -> int:
        """Encode and store a batch of images; return how many."""
        images = [self._segmenter.preprocess(self._dataset.image(i)) for i in image_ids]
        embeddings_BDhw = self._segmenter.encode_images(torch.stack(images).to(self._device))
        for image_id, embedding_Dhw in zip(image_ids, embeddings_BDhw, strict=True):
            self._store.put(self._dataset.digest(image_id), embedding_Dhw)
        return len(image_ids)
