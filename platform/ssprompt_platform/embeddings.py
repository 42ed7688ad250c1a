"""The store of frozen image embeddings: one Arrow file per image and encoder, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssprompt_core.data.embeddings import MappedEmbeddings
from ssprompt_core.errors import UserError
from ssprompt_platform.storage import Place, work_root, write_whole

FLOAT32, FLOAT16 = "float32", "float16"
FP32, BF16, FP16 = "fp32", "bf16", "fp16"


class EmbeddingStore:
    """Embeddings of images under a content key.

    The key is ``sha256(encoder fingerprint, image digest)``: another checkpoint, another
    preprocessing or another picture gets another file, equal pictures share one. So does another
    type of the stored values, and another precision of the encoder. Values are float32, bit-equal
    to what the encoder gave (a ViT-B embedding takes 4 MiB), or float16, which takes half of it.
    A file appears whole or not at all, so several machines may write the same store at once. Of a
    store in a bucket every machine keeps the files that it reads on its own disk, where all its
    processes map them into memory.

    Args:
        folder: Folder or prefix of the store.
        fingerprint: Fingerprint of the segmenter that encodes (weights and preprocessing).
        dtype: Type of the stored values, ``float32`` or ``float16``.
        precision: In which the encoder computes, ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(
        self, folder: Place, fingerprint: str, *, dtype: str = FLOAT32, precision: str = FP32
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.dtype, self.precision = dtype, precision

    def key(self, digest: str) -> str:
        """Content key of an image with this digest."""
        text = f"{self.fingerprint}\n{digest}"
        if (self.dtype, self.precision) != (FLOAT32, FP32):
            text += f"\n{self.dtype} {self.precision}"
        return hashlib.sha256(text.encode()).hexdigest()

    def path(self, digest: str) -> Place:
        """File of the image's embedding, whether it exists or not."""
        return self.folder / self._name(digest)

    def has(self, digest: str) -> bool:
        """Whether the embedding is stored."""
        return self.path(digest).is_file()

    def stored(self, digests: Collection[str]) -> set[str]:
        """Those of some images whose embeddings are stored."""
        if isinstance(self.folder, Path):
            return {digest for digest in digests if self.has(digest)}
        # a thousand names an answer, where asking for each would be one answer each
        there = {found.path for found in self.folder.walk()}
        return {digest for digest in digests if self.path(digest) in there}

    def put(self, digest: str, embedding_Dhw: Tensor) -> None:
        """Store the embedding of one image, float ``[D, h, w]``, as the store's type.

        Raises:
            UserError: A value is too large for float16.
            StorageError: The disk is full, or a bucket did not answer, or refused.
        """
        # here, since a dry run only asks what is stored
        from ssprompt_platform.arrow_tensors import write_tensor

        values = embedding_Dhw.detach().to("cpu", getattr(torch, self.dtype)).contiguous()
        if self.dtype == FLOAT16 and not bool(values.isfinite().all()):
            raise UserError(
                f"storage.embeddings is {FLOAT16}, but the embedding of an image has values beyond "
                f"{torch.finfo(torch.float16).max:g}; use {FLOAT32}"
            )
        facts = {"encoder": self.fingerprint, "image": digest, "precision": self.precision}
        write_whole(self.path(digest), lambda path: write_tensor(path, values, facts))

    def get(self, digest: str) -> Tensor:
        """The embedding of one image, ``[D, h, w]`` as stored, read-only and memory-mapped.

        Raises:
            FileNotFoundError: It was never stored.
        """
        from ssprompt_platform.arrow_tensors import map_tensor

        return map_tensor(self._local(digest))

    def images(self, digests: Sequence[str]) -> MappedEmbeddings:
        """Embeddings of several images, ``[n, D, h, w]``, left in their files until some are asked.

        Raises:
            FileNotFoundError: One was never stored.
        """
        return MappedEmbeddings([self.get(digest) for digest in digests])

    def _local(self, digest: str) -> Path:
        """A file of this machine with the embedding, fetched from the bucket where it is new."""
        place = self.path(digest)
        if isinstance(place, Path):
            return place
        # files of a content key never change: what is there is right
        copy = work_root(self.folder) / self._name(digest)
        if not copy.is_file():
            write_whole(copy, place.download)
        return copy

    def _name(self, digest: str) -> str:
        key = self.key(digest)
        return f"{key[:2]}/{key}.arrow"
