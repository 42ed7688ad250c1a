"""The shipped small SAM: loads, is what its card says, and refuses damaged files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ssprompt_core.errors import UserError
from ssprompt_core.models.small_sam import DEFAULT_WEIGHTS, build_small_sam, read_card
from ssprompt_core.pretrain.export import model_card
from ssprompt_core.pretrain.gates import MINIMA, Gate


def _copy(folder: Path) -> Path:
    for name in ("small_sam.safetensors", "small_sam.json"):
        shutil.copy(DEFAULT_WEIGHTS.parent / name, folder / name)
    return folder / "small_sam.safetensors"


def test_it_embeds_and_decodes_through_stock_calls() -> None:
    sam = build_small_sam().eval()
    with torch.no_grad():
        embedding = sam.image_encoder(torch.randn(1, 3, 96, 96))
        sparse, dense = sam.prompt_encoder(
            points=(torch.tensor([[[40.0, 50.0]]]), torch.ones(1, 1)), boxes=None, masks=None
        )
        masks, iou = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    assert embedding.shape == (1, 96, 24, 24)
    assert masks.shape == (1, 3, 96, 96)
    assert iou.shape == (1, 3)


def test_the_card_tells_the_truth() -> None:
    card = read_card()
    sam = build_small_sam()
    assert card["parameters"]["sam"] == sum(t.numel() for t in sam.state_dict().values())
    assert set(card["gates"]) == set(MINIMA)
    gates = [Gate(name, card["gates"][name], MINIMA[name]) for name in MINIMA]
    assert all(gate.passed for gate in gates)
    assert (DEFAULT_WEIGHTS.parent / "MODEL_CARD.md").read_text() == model_card(card, gates)


def test_the_weights_are_small_enough_to_ship() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size <= 10 * 1024 * 1024


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = _copy(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the file is damaged"):
        build_small_sam(path)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    import hashlib

    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"sam.x": torch.zeros(1)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    with pytest.raises(UserError, match="does not fit the small SAM"):
        build_small_sam(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        build_small_sam(tmp_path / "none.safetensors")
    path = _copy(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"small_sam\.json cannot be read"):
        build_small_sam(path)
