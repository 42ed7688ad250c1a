"""Stores on disk map their files into memory and leave nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from ssprompt_platform.embeddings import EmbeddingStore


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings", "encoder-a")


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
