"""What every store of image embeddings has to do, wherever it keeps them."""

from __future__ import annotations

import hashlib

import pytest
import torch

from ssprompt_core.errors import UserError
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

    @pytest.fixture
    def half(self, folder: Place) -> EmbeddingStore:
        return EmbeddingStore(folder, "encoder-a", dtype="float16")

    def test_values_come_back_bit_for_bit(self, store: EmbeddingStore) -> None:
        x_Dhw = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
        assert not store.has("image")
        assert store.stored(["image"]) == set()
        store.put("image", x_Dhw)
        assert store.has("image")
        assert store.stored(["image", "other"]) == {"image"}
        assert torch.equal(store.get("image"), x_Dhw)
        assert store.images(["image", "image"]).shape == (2, 5, 3, 4)

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

    def test_a_store_of_float16_rounds_and_takes_half_the_space(
        self, store: EmbeddingStore, half: EmbeddingStore
    ) -> None:
        x_Dhw = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0))
        for each in (store, half):
            each.put("image", x_Dhw)
        assert half.get("image").dtype == torch.float16
        assert torch.equal(half.get("image"), x_Dhw.half())
        assert half.get("image").nbytes == store.get("image").nbytes / 2
        # whoever computes gets float32, whatever is stored
        for picked in (half.images(["image"])[torch.tensor([0])], half.images(["image"])[0:1]):
            assert torch.equal(picked[0], x_Dhw.half().float())

    def test_other_types_and_precisions_have_files_of_their_own(self, folder: Place) -> None:
        ways = [("float32", "fp32"), ("float16", "fp32"), ("float32", "bf16"), ("float16", "bf16")]
        stores = [EmbeddingStore(folder, "a", dtype=d, precision=p) for d, p in ways]
        assert len({each.key("image") for each in stores}) == len(ways)
        # the key of embeddings that were stored before there was a choice
        assert stores[0].key("image") == hashlib.sha256(b"a\nimage").hexdigest()
        stores[1].put("image", torch.zeros(1, 1, 1))
        assert [each.has("image") for each in stores] == [False, True, False, False]

    def test_values_too_large_for_float16_are_refused(self, half: EmbeddingStore) -> None:
        with pytest.raises(UserError, match=r"^storage\.embeddings is float16, but .* 65504"):
            half.put("image", torch.full((1, 1, 1), 1e5))
        assert not half.has("image")

    def test_an_embedding_is_written_over_as_a_whole(self, store: EmbeddingStore) -> None:
        for _ in range(2):
            store.put("image", torch.ones(4, 2, 2))
        assert torch.equal(store.get("image"), torch.ones(4, 2, 2))
