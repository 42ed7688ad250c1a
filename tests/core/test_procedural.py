"""The embedded data set: the contract, its cache, its seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contracts import DatasetContract

from ssprompt_core.data.folder import FolderDataset
from ssprompt_core.data.procedural import ProceduralDataset


class TestProcedural(DatasetContract):
    @pytest.fixture
    def dataset(self) -> ProceduralDataset:
        return ProceduralDataset(train=4, val=2, test=2)


class TestFolder(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
        from test_folder import NAMES, write_folder

        images, labels = write_folder(tmp_path_factory.mktemp("folder"))
        return FolderDataset(images, labels, NAMES)


def test_scenes_come_from_the_cache_the_second_time(tmp_path: Path) -> None:
    data = ProceduralDataset(train=2, val=0, test=1, cache=tmp_path)
    image, label = data.image("train-00001"), data.label("train-00001")
    (kept,) = tmp_path.rglob("*.png")
    assert not list(tmp_path.rglob("*.tmp"))
    again = ProceduralDataset(train=2, val=0, test=1, cache=tmp_path)
    assert np.array_equal(again.image("train-00001"), image)
    assert np.array_equal(again.label("train-00001"), label)
    assert np.array_equal(ProceduralDataset(train=2).image("train-00001"), image)
    # what is read is the file: a changed file shows
    from PIL import Image

    Image.fromarray(np.zeros((96, 96, 4), np.uint8)).save(kept)
    assert again.image("train-00001").max() == 0


def test_seeds_and_splits_give_other_scenes(tmp_path: Path) -> None:
    data = ProceduralDataset(train=1, val=1, test=1)
    first = data.image("train-00000")
    assert not np.array_equal(first, data.image("val-00000"))
    assert not np.array_equal(first, data.image("test-00000"))
    assert not np.array_equal(first, ProceduralDataset(train=1, seed=1).image("train-00000"))


def test_a_larger_pool_keeps_the_scenes_of_a_smaller_one() -> None:
    small, large = ProceduralDataset(train=2), ProceduralDataset(train=5)
    assert small.digest("train-00001") == large.digest("train-00001")
    assert small.label_digest("train-00001") == large.label_digest("train-00001")


def test_a_label_digest_follows_the_seed_and_draws_no_scene(tmp_path: Path) -> None:
    first, second = (ProceduralDataset(2, 0, 1, seed=s, cache=tmp_path) for s in (0, 1))
    assert first.label_digest("train-00001") != second.label_digest("train-00001")
    assert not list(tmp_path.iterdir())
