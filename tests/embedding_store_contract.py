"""What every store of image embeddings has to do, wherever it keeps them."""

from __future__ import annotations

import pytest
import torch

from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.storage import Place


class EmbeddingStoreContract:
    """A subclass gives the fixture ``folder``."""

    @pytest.fixture
    def folder(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def store(self, folder: Place) -> EmbeddingStore:
        return EmbeddingStore(folder, "encoder-a")

    def test_values_come_back_bit_for_bit(self, store: EmbeddingStore) -> None:
        x_Dhw = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
        assert not store.has("image")
        assert store.stored(["image"]) == set()
        store.put("image", x_Dhw)
        assert store.has("image")
        assert store.stored(["image", "other"]) == {"image"}
        assert torch.equal(store.get("image"), x_Dhw)
        assert store.stack(["image", "image"]).shape == (2, 5, 3, 4)

    def test_what_was_never_stored_is_missing(self, store: EmbeddingStore) -> None:
        with pytest.raises(FileNotFoundError):
            store.get("image")

    def test_the_key_depends_on_encoder_and_image(self, store: EmbeddingStore) -> None:
        other = EmbeddingStore(store.folder, "encoder-b")
        keys = {store.key("1"), store.key("2"), other.key("1"), other.key("2")}
        assert len(keys) == 4
        store.put("1", torch.zeros(1, 1, 1))
        assert not other.has("1")

    def test_half_precision_embeddings_are_kept_as_float32(self, store: EmbeddingStore) -> None:
        store.put("image", torch.ones(2, 1, 1, dtype=torch.float16))
        assert store.get("image").dtype == torch.float32

    def test_an_embedding_is_written_over_as_a_whole(self, store: EmbeddingStore) -> None:
        for _ in range(2):
            store.put("image", torch.ones(4, 2, 2))
        assert torch.equal(store.get("image"), torch.ones(4, 2, 2))
