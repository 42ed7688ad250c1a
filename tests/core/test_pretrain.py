"""Pretraining: every loss learns something, and an interrupted run ends in the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssprompt_core.data.domains import UPSTREAM
from ssprompt_core.errors import UserError
from ssprompt_core.models.small_sam import SmallSam, build_small_sam
from ssprompt_core.pretrain.batches import draw_batch, draw_share
from ssprompt_core.pretrain.config import PretrainConfig
from ssprompt_core.pretrain.decoding import by_cell, decode_prompts
from ssprompt_core.pretrain.export import export
from ssprompt_core.pretrain.gates import MINIMA, Gate
from ssprompt_core.pretrain.loop import CHECKPOINT, pretrain, pretrain_stages
from ssprompt_core.pretrain.losses import WEIGHTS, step_losses
from ssprompt_core.pretrain.state import PretrainState

TINY = PretrainConfig(
    scenes=8, steps=4, batch=2, processes=1, cells=16, warmup=2, checkpoint_every=2
)


def _quiet(line: str) -> None:
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = pretrain(TINY, tmp_path / "a", _quiet)

    class Interrupted(Exception):  # noqa: N818
        pass

    def stop_after_two(line: str) -> None:
        if (tmp_path / "b" / CHECKPOINT).exists():
            raise Interrupted

    # the last line comes before the last checkpoint: the run dies with the one of step 2
    with pytest.raises(Interrupted):
        pretrain(TINY, tmp_path / "b", stop_after_two)
    half = PretrainState(TINY)
    half.load(tmp_path / "b" / CHECKPOINT)
    assert half.step == 2
    resumed = pretrain(TINY, tmp_path / "b", _quiet)
    for name, tensor in straight.average.items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_a_stage_starts_from_the_average_of_the_one_before(tmp_path: Path) -> None:
    # a learning rate of nothing leaves the weights where they started
    still = replace(TINY, lr=0.0, steps=2)
    pretrain_stages([TINY, still], tmp_path, _quiet)
    first, second = PretrainState(TINY), PretrainState(still)
    first.load(tmp_path / "stage-1" / CHECKPOINT)
    second.load(tmp_path / "stage-2" / CHECKPOINT)
    for name, tensor in first.averaged_weights().items():
        torch.testing.assert_close(second.averaged_weights()[name], tensor, atol=1e-4, rtol=0)
    assert not torch.equal(
        PretrainState(TINY).sam.mask_decoder.iou_token.weight,
        second.sam.mask_decoder.iou_token.weight,
    )


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    pretrain(TINY, tmp_path, _quiet)
    with pytest.raises(UserError, match="another configuration"):
        pretrain(replace(TINY, lr=1e-4), tmp_path, _quiet)


def test_all_parts_reach_the_encoder_or_their_own_weights() -> None:
    state = PretrainState(TINY)
    rng = np.random.default_rng(0)
    batch = draw_batch(draw_share(UPSTREAM, 8, 1, 0, 1), 2, rng)
    parts = step_losses(state.sam, state.text, state.heads, TINY, batch, rng)
    assert parts.keys() == WEIGHTS.keys()
    encoder = list(state.sam.image_encoder.parameters())
    for name, part in parts.items():
        assert part.isfinite()
        grads = torch.autograd.grad(part, encoder, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in grads), name


def test_decoding_of_cells_equals_the_stock_decoder() -> None:
    torch.manual_seed(0)
    sam = SmallSam().eval()
    image, sparse = torch.randn(1, 96, 24, 24), torch.randn(3, 5, 96)
    with torch.no_grad():
        stock, stock_iou = sam.mask_decoder.predict_masks(
            image_embeddings=image,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight.view(
                1, -1, 1, 1
            ).expand(1, -1, 24, 24),
        )
        cells = torch.tensor([0, 25, 575])
        ours, iou = decode_prompts(sam, image.expand(3, -1, -1, -1), sparse, cells)
    expected = torch.from_numpy(by_cell(stock.numpy()))[:, :, cells]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou, stock_iou, atol=1e-5, rtol=1e-4)


def test_two_processes_share_the_scenes() -> None:
    whole, first, second = (draw_share(UPSTREAM, 6, 1, r, w) for r, w in ((0, 1), (0, 2), (1, 2)))
    assert np.array_equal(whole.image[0::2], first.image)
    assert np.array_equal(whole.image[1::2], second.image)


def test_exported_weights_load_again(tmp_path: Path) -> None:
    state = PretrainState(TINY)
    gates = [Gate(name, 1.0, minimum) for name, minimum in MINIMA.items()]
    path = tmp_path / "small_sam.safetensors"
    export(state.averaged_weights(), [TINY], gates, path)
    loaded = build_small_sam(path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state.average[f"sam.{name}"])
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["pretraining"][0]["steps"] == TINY.steps
    assert "passed" in (tmp_path / "MODEL_CARD.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))
