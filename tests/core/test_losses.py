"""The loss: torch's cross-entropy plus dice by hand, additive over any cut of a batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.train.losses import BatchTotals, segmentation_loss

CLASSES = 4


def batch(images: int = 5, pixels: int = 12, seed: int = 0, scale: float = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, CLASSES, pixels, generator=generator)
    labels = torch.randint(0, CLASSES + 1, (images, pixels), generator=generator)
    labels[labels == CLASSES] = IGNORE
    return logits, labels.to(torch.uint8)


def loss_of(logits: Tensor, labels: Tensor, **weights: float) -> Tensor:
    return segmentation_loss(logits, labels, BatchTotals.of(labels, CLASSES), **weights)


def naive_dice(logits: Tensor, labels: Tensor) -> Tensor:
    terms = []
    for p_CX, label_X in zip(logits.softmax(1), labels, strict=True):
        counted = label_X != IGNORE
        for c in range(CLASSES):
            y, p = (label_X[counted] == c).float(), p_CX[c, counted]
            if y.any():
                terms.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    return torch.stack(terms).mean()


@settings(deadline=None, max_examples=40)
@given(images=st.integers(1, 5), pixels=st.integers(1, 20), seed=st.integers(0, 10_000))
def test_it_is_the_sum_of_cross_entropy_and_dice(images: int, pixels: int, seed: int) -> None:
    logits, labels = batch(images, pixels, seed)
    labels[0, 0] = 1
    expected = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE)
    torch.testing.assert_close(loss_of(logits, labels, dice_weight=0), expected)
    dice = naive_dice(logits, labels)
    torch.testing.assert_close(loss_of(logits, labels, ce_weight=0), dice)
    both = loss_of(logits, labels, ce_weight=0.3, dice_weight=2)
    torch.testing.assert_close(both, 0.3 * expected + 2 * dice)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 6), max_size=3))
def test_parts_of_a_batch_add_up_with_their_gradients(seed: int, cuts: list[int]) -> None:
    logits, labels = batch(7, seed=seed)
    logits.requires_grad_()
    totals = BatchTotals.of(labels, CLASSES)
    whole = segmentation_loss(logits, labels, totals)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = zip(
        torch.tensor_split(logits, sorted(cuts)), torch.tensor_split(labels, sorted(cuts)),
        strict=True,
    )  # fmt: skip
    together = sum(segmentation_loss(x, y, totals) for x, y in parts)
    torch.testing.assert_close(together, whole)
    torch.testing.assert_close(torch.autograd.grad(together, logits)[0], expected)


def test_unlabelled_pixels_have_no_part_in_loss_or_gradient() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    before = loss_of(logits, labels)
    (gradient,) = torch.autograd.grad(before, logits)
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert (gradient[ignored] == 0).all()
    changed = torch.where(ignored, 50 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss_of(changed, labels), before)


def test_a_batch_without_labels_costs_nothing() -> None:
    logits, labels = batch()
    logits.requires_grad_()
    loss = loss_of(logits, torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_the_totals_are_counts() -> None:
    labels = torch.tensor([[0, 0, IGNORE], [1, 2, 0], [IGNORE, IGNORE, IGNORE]])
    totals = BatchTotals.of(labels, CLASSES)
    assert totals.pixels == 5
    assert totals.present == 4


def test_right_and_sure_costs_little_and_wrong_and_sure_much() -> None:
    _, labels = batch()
    labels[labels == IGNORE] = 0
    sure = 50 * F.one_hot(labels.long(), CLASSES).transpose(1, 2).float()
    assert loss_of(sure, labels) < 1e-6
    assert loss_of(sure.roll(1, dims=1), labels) > 10


@pytest.mark.parametrize("shift", [100.0, -1e4])
def test_only_differences_between_classes_matter(shift: float) -> None:
    logits, labels = batch()
    torch.testing.assert_close(
        loss_of(logits + shift, labels), loss_of(logits, labels), rtol=1e-3, atol=1e-3
    )


def test_half_precision_logits_are_summed_in_full_precision() -> None:
    logits, labels = batch(images=3, pixels=4096)
    loss = loss_of(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits, labels), rtol=1e-3, atol=0)
