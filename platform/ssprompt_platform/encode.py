"""Encodes the images of a study that the store lacks, each exactly once, on all workers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.errors import UserError
from ssprompt_platform.cluster import Resources, limit_threads
from ssprompt_platform.embeddings import BF16, FP16, FP32, EmbeddingStore
from ssprompt_platform.encoded import Encoded, missing_images
from ssprompt_platform.metrics.names import ENCODED
from ssprompt_platform.metrics.recorder import count as count_metric
from ssprompt_platform.progress import Progress
from ssprompt_platform.sources import SegmenterSource

_UNDER_WAY = 2
"""Batches of a worker at once: while one is in the encoder, another is read or written."""


def check_precision(precision: str, device: str) -> None:
    """Check that the encoder can compute so.

    Raises:
        UserError: The device has no such arithmetic.
    """
    if precision == FP16 and device == "cpu":
        raise UserError("model.precision is fp16, which needs a GPU; use bf16 or fp32")


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
            actor = ray.remote(Encoder).options(
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus_per_worker,
                max_concurrency=_UNDER_WAY,
            )
            count = min(resources.workers, len(batches))
            actors = [actor.remote(dataset_ref, store, source, resources) for _ in range(count)]
            pool: Any = ray.util.ActorPool(actors * _UNDER_WAY)
            try:
                for done in pool.map_unordered(lambda a, ids: a.encode.remote(ids), batches):
                    advance(done)
                    count_metric(ENCODED, done)
            except RayTaskError as error:
                # Ray's own text of it is a traceback
                raise error.cause if isinstance(error.cause, UserError) else error from None
            for each in actors:
                ray.kill(each)
    return Encoded(len(set(image_ids)), len(set(image_ids)) - len(missing), len(missing))


class Encoder:
    """One worker with the whole segmenter; nothing else in the platform runs an image encoder.

    Several threads may call it at once. Of their batches one at a time is in the encoder, which is
    never left idle as long as pictures are read and embeddings are written faster than it computes.

    Args:
        dataset: Gives the images.
        store: Takes the embeddings, and says in which precision they are computed.
        source: How to build the segmenter.
        resources: What the worker has.
    """

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
        self._readers = ThreadPoolExecutor(resources.cpus_per_worker, "read-image")
        self._encoding = threading.Lock()

    def encode(self, image_ids: Sequence[str]) -> int:
        """Encode and store a batch of images; return how many."""
        x_B3SS = torch.stack(list(self._readers.map(self._read, image_ids)))
        with self._encoding, self._autocast():
            embeddings_BDhw = self._segmenter.encode_images(x_B3SS.to(self._device))
        on_cpu_BDhw = embeddings_BDhw.cpu()
        for image_id, embedding_Dhw in zip(image_ids, on_cpu_BDhw, strict=True):
            self._store.put(self._dataset.digest(image_id), embedding_Dhw)
        return len(image_ids)

    def _read(self, image_id: str) -> Tensor:
        return self._segmenter.preprocess(self._dataset.image(image_id))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._store.precision == FP32:
            return nullcontext()
        dtype = torch.bfloat16 if self._store.precision == BF16 else torch.float16
        return torch.autocast(self._device, dtype)
