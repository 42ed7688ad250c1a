"""Images of different sizes train together; padding and ignored pixels teach nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.methods import FewShotModel, MethodSettings, build_model
from ssprompt_core.train.data import LabelledEmbeddings, label_cells
from ssprompt_core.train.fit import FitSettings, fit
from ssprompt_core.train.state import TrainState
from tests.core.tiny_sam import GRID, class_texts, tiny_segmenter

C = 3
ONE_STEP = FitSettings(epochs=1, steps_per_epoch=1, batch_size=8, cells=0, checkpoint_every=1)
CROSS_ENTROPY = replace(ONE_STEP, dice_weight=0)
EVERY_TERM = replace(ONE_STEP, focal_weight=1, class_balance=1, micro_batch=1)
SEGMENTER = tiny_segmenter()

sizes = st.lists(st.tuples(st.integers(4, 60), st.integers(4, 60)), min_size=1, max_size=4)


class PixelLogits(FewShotModel):
    """Embeddings with ``C`` channels are the logits of their cells, plus a trained number each."""

    def __init__(self) -> None:
        super().__init__(SEGMENTER, C)
        self.theta = nn.Parameter(torch.zeros(C, GRID**2, 4, 4))

    def class_logits(self, embeddings_BDhw: Tensor, cells_P: Tensor | None = None) -> Tensor:
        logits_BCS44 = embeddings_BDhw.flatten(2)[..., None, None] + self.theta
        return logits_BCS44 if cells_P is None else logits_BCS44[:, :, cells_P]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.theta], "lr": 0.1}]


def _one_step(
    model: FewShotModel, data: LabelledEmbeddings, how: FitSettings
) -> tuple[float, TrainState]:
    """Loss of one step, and the state after it: its first moments are a tenth of the gradients."""
    states: list[TrainState | None] = []
    loss = fit(model, data, how, report=lambda metrics, state: states.append(state)).loss
    assert states[0] is not None
    return loss, states[0]


def _labels(shapes: list[tuple[int, int]], seed: int) -> list[np.ndarray]:
    """Blocks of classes; a tenth of the pixels is ignored."""
    rng = np.random.default_rng(seed)
    labels = []
    for height, width in shapes:
        coarse = rng.integers(0, C, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
        label = coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()
        label[rng.random(label.shape) < 0.1] = IGNORE
        label[0, 0] = 0
        labels.append(label)
    return labels


def _data(shapes: list[tuple[int, int]], seed: int) -> LabelledEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(shapes), C, GRID, GRID, generator=generator)
    return LabelledEmbeddings(embeddings, _labels(shapes, seed), shapes)


@settings(deadline=None, max_examples=30)
@given(shapes=sizes, seed=st.integers(0, 1000))
def test_a_batch_of_sizes_is_the_mean_over_all_its_labelled_pixels(
    shapes: list[tuple[int, int]], seed: int
) -> None:
    data = _data(shapes, seed)
    loss, state = _one_step(PixelLogits(), data, CROSS_ENTROPY)
    theta = torch.zeros(C, GRID**2, 4, 4, requires_grad=True)
    labels_nS44 = label_cells(data.labels, SEGMENTER, C)
    logits_nCS44 = data.embeddings.flatten(2)[..., None, None] + theta
    expected = F.cross_entropy(
        logits_nCS44.flatten(2), labels_nS44.flatten(1).long(), ignore_index=IGNORE
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(state["exp_avg.theta"], 0.1 * theta.grad)


@pytest.mark.parametrize("how", [ONE_STEP, EVERY_TERM], ids=["default", "every term"])
@settings(deadline=None, max_examples=30)
@given(shapes=sizes, seed=st.integers(0, 1000))
def test_unlabelled_cells_and_padding_change_no_bit(
    how: FitSettings, shapes: list[tuple[int, int]], seed: int
) -> None:
    data = _data(shapes, seed)
    loss, state = _one_step(PixelLogits(), data, how)
    labels_nS44 = label_cells(data.labels, SEGMENTER, C)
    nowhere_S44 = (labels_nS44 == IGNORE).all(0)
    assert (state["exp_avg.theta"][:, nowhere_S44] == 0).all()
    # what the model says where an image has no label at all does not matter
    empty_nS = (labels_nS44 == IGNORE).flatten(2).all(2)
    poison = 300 * torch.randn(data.embeddings.shape, generator=torch.Generator().manual_seed(seed))
    everywhere = data.embeddings + poison
    poisoned = replace(
        data,
        embeddings=torch.where(empty_nS.view(-1, 1, GRID, GRID), everywhere, data.embeddings),
    )
    other_loss, other = _one_step(PixelLogits(), poisoned, how)
    assert other_loss == loss
    for name, value in state.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("how", [ONE_STEP, EVERY_TERM], ids=["default", "every term"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_ignoring_a_region_is_cutting_it_off(how: FitSettings, seed: int) -> None:
    # the longest side stays, so both have one scale and the cut part is padding
    data = _data([(48, 48)], seed)
    narrow = LabelledEmbeddings(data.embeddings, [data.labels[0][:, :32].copy()], [(48, 32)])
    data.labels[0][:, 32:] = IGNORE
    (loss, state), (other_loss, other) = (
        _one_step(PixelLogits(), each, how) for each in (data, narrow)
    )
    assert other_loss == loss
    assert torch.equal(state["exp_avg.theta"], other["exp_avg.theta"])


def test_the_decoder_trains_on_images_of_different_sizes_as_on_each_alone() -> None:
    shapes = [(48, 96), (96, 40), (60, 60)]
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    labels = _labels(shapes, 3)
    images_n3SS = torch.stack([SEGMENTER.preprocess(colours[label]) for label in labels])
    embeddings = SEGMENTER.encode_images(images_n3SS)
    text = torch.randn(C, 12, generator=torch.Generator().manual_seed(5))

    def step(chosen: list[int], how: FitSettings) -> tuple[float, TrainState]:
        model = build_model("ssprompt", MethodSettings(), SEGMENTER, class_texts(text), seed=0)
        data = LabelledEmbeddings(
            embeddings[chosen], [labels[i] for i in chosen], [shapes[i] for i in chosen]
        )
        return _one_step(model, data, how)

    loss, state = step([0, 1, 2], CROSS_ENTROPY)
    alone = [step([i], CROSS_ENTROPY) for i in range(3)]
    pixels = [(label_cells([label], SEGMENTER, C) != IGNORE).sum().item() for label in labels]
    share = [count / sum(pixels) for count in pixels]
    assert len(set(pixels)) == 3
    assert loss == pytest.approx(sum(s * one[0] for s, one in zip(share, alone, strict=True)), 1e-5)
    for name, value in state.items():
        if name.startswith("exp_avg."):
            together = sum(s * one[1][name] for s, one in zip(share, alone, strict=True))
            torch.testing.assert_close(value, together, rtol=1e-3, atol=1e-7)
