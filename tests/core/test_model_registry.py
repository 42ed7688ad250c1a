"""Segmenters by name: official checkpoint files, and one sentence for every wrong one."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from ssprompt_core.errors import UserError
from ssprompt_core.models.official import (
    OFFICIAL,
    UnofficialCheckpointWarning,
    check_official,
)
from ssprompt_core.models.registry import build_segmenter


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-B of random weights in a file as the official one is."""
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(sam_model_registry["vit_b"](checkpoint=None).state_dict(), path)
    return path


def test_an_official_checkpoint_becomes_a_frozen_segmenter(official: Path) -> None:
    segmenter = build_segmenter("vit_b", official)
    assert (segmenter.embed_dim, segmenter.grid_size, segmenter.image_size) == (256, 64, 1024)
    assert not segmenter.native_text
    assert not any(p.requires_grad for p in segmenter.parameters())
    with pytest.raises(UserError, match="is a checkpoint of vit_b, but model.name is vit_l"):
        build_segmenter("vit_l", official)


def test_a_checkpoint_that_was_cut_off_is_named(official: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(official.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.pth cannot be read as a checkpoint"):
        build_segmenter("vit_b", cut)


def test_other_files_are_named(tmp_path: Path) -> None:
    lacking = tmp_path / "lacking.pth"
    torch.save({"x": torch.zeros(1)}, lacking)
    with pytest.raises(UserError, match=r"lacking\.pth has no '.*', so it is not a checkpoint of"):
        build_segmenter("vit_b", lacking)
    foreign = tmp_path / "list.pth"
    torch.save([1, 2], foreign)
    with pytest.raises(UserError, match="does not hold a state dict"):
        build_segmenter("vit_b", foreign)
    with pytest.raises(UserError, match="which is not a file"):
        build_segmenter("vit_b", tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"model\.checkpoint is not set"):
        build_segmenter("vit_b")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"x": Bomb()}))
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        build_segmenter("vit_b", tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match=r"vit_b"):
        build_segmenter("vitb")


def test_the_small_model_needs_no_file_and_knows_its_own_text() -> None:
    segmenter = build_segmenter("small")
    assert segmenter.native_text
    assert segmenter.text_dim == segmenter.embed_dim


def test_a_checkpoint_that_is_not_the_official_file_is_warned_about_once(official: Path) -> None:
    with pytest.warns(UnofficialCheckpointWarning) as record:
        assert not check_official("vit_b", official)
    (warning,) = record
    message = str(warning.message)
    found = hashlib.sha256(official.read_bytes()).hexdigest()
    assert f"has SHA-256 {found}" in message
    assert f"the official sam_vit_b_01ec64.pth has {OFFICIAL['vit_b'][1]}" in message
    assert "not those of the official vit_b" in message
    assert warning.filename == __file__


def test_the_official_file_is_known_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "any name.pth"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(OFFICIAL, "vit_l", ("sam_vit_l_0b3195.pth", digest))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_official("vit_l", path)
        assert not check_official("small", None)
        assert not check_official("transformers", tmp_path)
