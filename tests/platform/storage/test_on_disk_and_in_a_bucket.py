"""What a study keeps is kept alike on a disk and in a bucket of a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_store_contract import EmbeddingStoreContract
from hypothesis import given
from hypothesis import strategies as st

from ssprompt_core.errors import UserError
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.state import TrainState
from ssprompt_platform import attempts, checkpoints
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.fit_files import (
    fail,
    load_shown,
    record_path,
    save_shown,
    settled,
    settled_among,
    shown_path,
)
from ssprompt_platform.plan import FitKey
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import (
    Place,
    S3Path,
    child_names,
    local_tree,
    safe_name,
    storage_root,
    work_root,
    write_json,
    write_text,
)
from ssprompt_platform.texts import TextStore
from ssprompt_platform.use.arguments import prompt_file


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A storage root that holds nothing."""
    monkeypatch.setenv("SSPROMPT_CACHE", str(tmp_path / "cache"))
    if request.param == "bucket":
        return storage_root(request.getfixturevalue("s3_bucket"))
    return tmp_path / "root"


class TestEmbeddingStoreOnDisk(EmbeddingStoreContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Place:
        return tmp_path / "embeddings"


class TestEmbeddingStoreInABucket(EmbeddingStoreContract):
    @pytest.fixture
    def folder(self, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setenv("SSPROMPT_CACHE", str(tmp_path / "cache"))
        return storage_root(s3_bucket) / "embeddings"

    def test_a_machine_fetches_an_embedding_once(self, store: EmbeddingStore) -> None:
        store.put("image", torch.ones(2, 3, 4))
        store.get("image")
        assert isinstance(store.folder, S3Path)
        store.folder.remove_tree()
        # still there for every process of this machine
        again = EmbeddingStore(store.folder, store.fingerprint)
        assert torch.equal(again.get("image"), torch.ones(2, 3, 4))
        assert not store.has("image")

    def test_many_are_looked_for_by_one_listing(self, store: EmbeddingStore) -> None:
        for name in "abc":
            store.put(name, torch.zeros(1, 1, 1))
        assert store.stored(["a", "c", "x"]) == {"a", "c"}


def test_a_checkpoint_comes_back_whole(root: Place) -> None:
    place = root / "trials" / "t000"
    assert checkpoints.load(place) is None
    checkpoints.save(place, {"value": 1}, TrainState(epoch=torch.tensor(1)))
    checkpoints.save(place, {"value": 2}, TrainState(epoch=torch.tensor(2)))
    found = checkpoints.load(place)
    assert found is not None
    assert found[1] is not None
    assert found[0] == {"value": 2}
    assert found[1]["epoch"] == 2
    assert len(child_names(place)) == 2  # the older state is gone
    checkpoints.save(place, {"value": 3}, None)
    assert checkpoints.load(place) == ({"value": 3}, None)
    checkpoints.clear(place)
    assert checkpoints.load(place) is None
    assert child_names(place) == set()


def test_a_checkpoint_whose_state_is_damaged_counts_as_none(root: Place) -> None:
    checkpoints.save(root / "t", {"value": 1}, TrainState(epoch=torch.tensor(1)))
    (name,) = child_names(root / "t") - {"checkpoint.json"}
    whole = (root / "t" / name).read_bytes()
    (root / "t" / name).write_bytes(whole[: len(whole) // 2])
    assert checkpoints.load(root / "t") is None
    (root / "t" / name).unlink()
    assert checkpoints.load(root / "t") is None


def test_starts_are_counted_by_session(root: Place) -> None:
    assert [attempts.count(root / "t", "a") for _ in range(2)] == [1, 2]
    assert attempts.count(root / "t", "b") == 1


def test_fits_are_settled_by_their_records(root: Place) -> None:
    done, failed, waiting = (FitKey("ssprompt", 1, draw) for draw in range(3))
    fits = root / "fits"
    assert settled_among(fits, [done, failed, waiting]) == []
    write_json(record_path(fits, done), {"hyperparameters": {}})
    checkpoints.save(fits / "running" / failed.name, {}, None)
    fail(fits, failed, {}, "no memory")
    assert settled_among(fits, [done, failed, waiting]) == [done, failed]
    assert settled(fits, failed)
    assert not settled(fits, waiting)
    assert child_names(fits / "running" / failed.name) == set()


def test_shown_images_come_back(root: Place) -> None:
    key, pixels = FitKey("sem", 1, 0), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    shown = ShownImage("a/b c", pixels, pixels[..., 0], pixels[..., 1], 0.5)
    assert load_shown(root, key) == []
    save_shown(root, key, [shown])
    (back,) = load_shown(root, key)
    assert back.image_id == "a/b c"
    assert back.miou == 0.5
    assert np.array_equal(back.image, pixels)
    assert shown_path(root, key).is_file()


def test_class_names_are_embedded_once(root: Place) -> None:
    store, made = TextStore(root / "texts"), torch.rand(2, 3)
    texts = ClassTexts(("sky", "road"), made, made + 1, lambda: None, "print", "none")  # type: ignore[arg-type,return-value]
    assert store.get("print", ["sky", "road"]) is None
    store.put(texts)
    found = store.get("print", ["sky", "road"])
    assert found is not None
    assert torch.equal(found[0], made)


def test_a_tree_is_fetched_with_its_folders(root: Place) -> None:
    for name in ("index.html", "figures/a.png", "tables/é ü.csv"):
        write_text(root / "report" / name, name)
    with local_tree(root / "report") as folder:
        found = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.*")}
    assert found == {name: name for name in ("index.html", "figures/a.png", "tables/é ü.csv")}


def test_a_local_root_is_its_own_working_folder(tmp_path: Path) -> None:
    assert work_root(tmp_path) == tmp_path
    first, second = S3Path("bucket", "one"), S3Path("bucket", "two")
    assert work_root(first) != work_root(second)
    assert work_root(first) == work_root(first)


@given(st.text(max_size=400), st.text(max_size=400))
def test_names_from_data_neither_escape_nor_collide(first: str, second: str) -> None:
    names = [safe_name(text) for text in (first, second)]
    assert (names[0] == names[1]) == (first == second)
    for name in names:
        # S3Path refuses empty parts, "." and ".."
        assert S3Path("b", "root") / name == S3Path("b", f"root/{name}")
        assert name.isascii()
        assert "/" not in name
        assert len(name) <= 92
        assert not name.startswith((".", "-"))


@pytest.mark.parametrize(
    "text", ["..", ".", "", "../../etc/passwd", "a/b", "a b", "a_b", "x" * 300, "Straße", "a\0b"]
)
def test_awkward_names_stay_below_their_folder(text: str, tmp_path: Path) -> None:
    place = tmp_path / "root" / f"overlay-{safe_name(text)}.png"
    write_text(place, text)
    assert place.resolve().parent == (tmp_path / "root").resolve()
    assert place.read_text() == text


def test_learned_prompts_are_fetched_once_by_content(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPROMPT_CACHE", str(tmp_path / "cache"))
    place = storage_root(s3_bucket) / "study" / "fits" / "sem-k1-d0.safetensors"
    with pytest.raises(UserError, match="there is no s3://"):
        prompt_file(str(place))
    write_text(place, "first")
    copy = prompt_file(str(place))
    assert copy.name == place.name
    assert copy.read_text() == "first"
    assert prompt_file(str(place)) == copy
    write_text(place, "second")
    assert prompt_file(str(place)).read_text() == "second"
    assert prompt_file("here.safetensors") == Path("here.safetensors")
