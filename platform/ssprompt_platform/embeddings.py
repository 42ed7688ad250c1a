"""The store of frozen image embeddings: one Arrow file per image and encoder, memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssprompt_platform.storage import Place, work_root, write_whole


class EmbeddingStore:
    """Embeddings of images under a content key.

    The key is ``sha256(encoder fingerprint, image digest)``: another checkpoint, another
    preprocessing or another picture gets another file, equal pictures share one. Values are
    float32, bit-equal to what the encoder gave (a ViT-B embedding takes 4 MiB). A file appears
    whole or not at all, so several machines may write the same store at once. Of a store in a
    bucket every machine keeps the files that it reads on its own disk, where all its processes map
    them into memory.

    Args:
        folder: Folder or prefix of the store.
        fingerprint: Fingerprint of the segmenter that encodes (weights and preprocessing).
    """

    def __init__(self, folder: Place, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def key(self, digest: str) -> str:
        """Content key of an image with this digest."""
        return hashlib.sha256(f"{self.fingerprint}\n{digest}".encode()).hexdigest()

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
        """Store the embedding of one image, float32 ``[D, h, w]``."""
        # here, since a dry run only asks what is stored
        from ssprompt_platform.arrow_tensors import write_tensor

        values = embedding_Dhw.detach().to("cpu", torch.float32).contiguous()
        facts = {"encoder": self.fingerprint, "image": digest}
        write_whole(self.path(digest), lambda path: write_tensor(path, values, facts))

    def get(self, digest: str) -> Tensor:
        """The embedding of one image, float32 ``[D, h, w]``, read-only and memory-mapped.

        Raises:
            FileNotFoundError: It was never stored.
        """
        from ssprompt_platform.arrow_tensors import map_tensor

        return map_tensor(self._local(digest))

    def stack(self, digests: Sequence[str]) -> Tensor:
        """Embeddings of several images, float32 ``[n, D, h, w]``, copied out of their files."""
        return torch.stack([self.get(digest) for digest in digests])

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
