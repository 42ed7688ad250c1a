from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ssprompt_platform.embeddings import EmbeddingStore


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings", "encoder-a")


def test_values_come_back_bit_for_bit(store: EmbeddingStore) -> None:
    x_Dhw = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert not store.has("image")
    store.put("image", x_Dhw)
    assert store.has("image")
    assert torch.equal(store.get("image"), x_Dhw)
    assert store.stack(["image", "image"]).shape == (2, 5, 3, 4)


def test_the_key_depends_on_encoder_and_image(store: EmbeddingStore) -> None:
    other = EmbeddingStore(store.folder, "encoder-b")
    keys = {store.key("1"), store.key("2"), other.key("1"), other.key("2")}
    assert len(keys) == 4
    store.put("1", torch.zeros(1, 1, 1))
    assert not other.has("1")


def test_reading_maps_the_file_instead_of_copying_it(store: EmbeddingStore) -> None:
    store.put("image", torch.ones(64, 64, 64))
    before = pa.total_allocated_bytes()
    tensors = [store.get("image") for _ in range(8)]
    assert pa.total_allocated_bytes() - before < tensors[0].nbytes
    # the pages belong to the file: its address range is a mapping of this very path
    address = tensors[0].data_ptr()
    maps = Path("/proc/self/maps").read_text().splitlines()
    (line,) = [
        line
        for line in maps
        if int(line.split("-")[0], 16) <= address < int(line.split()[0].split("-")[1], 16)
    ]
    assert line.endswith(store.path("image").name)


def test_a_failed_write_leaves_nothing(store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch):
    class BrokenError(OSError):
        pass

    def fail(*_: object) -> None:
        raise BrokenError

    monkeypatch.setattr(pa.ipc, "new_file", fail)
    with pytest.raises(BrokenError):
        store.put("image", torch.zeros(1, 1, 1))
    assert not store.has("image")
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_half_precision_embeddings_are_kept_as_float32(store: EmbeddingStore) -> None:
    store.put("image", torch.ones(2, 1, 1, dtype=torch.float16))
    assert store.get("image").dtype == torch.float32
