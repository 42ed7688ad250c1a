"""The loss: torch's cross-entropy plus dice and focal by hand, additive over any cut of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.train.losses import BatchTotals, class_weights, segmentation_loss

CLASSES = 4


def batch(images: int = 5, pixels: int = 12, seed: int = 0, scale: float = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, CLASSES, pixels, generator=generator)
    labels = torch.randint(0, CLASSES + 1, (images, pixels), generator=generator)
    labels[labels == CLASSES] = IGNORE
    return logits, labels.to(torch.uint8)


EVERY_TERM: dict[str, Any] = {
    "focal_weight": 0.7,
    "focal_gamma": 0.5,
    "class_weight_C": torch.tensor([0.2, 1.0, 0.0, 3.0]),
}
TERMS = pytest.mark.parametrize("terms", [{}, EVERY_TERM], ids=["default", "every"])


def loss_of(logits: Tensor, labels: Tensor, **weights: Any) -> Tensor:
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
@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 5), weighted=st.booleans())
def test_the_focal_loss_is_the_formula(seed: int, gamma: float, weighted: bool) -> None:
    logits, labels = batch(seed=seed)
    labels[0, 0] = 1
    alpha = EVERY_TERM["class_weight_C"] if weighted else torch.ones(CLASSES)
    terms = []
    for p_CX, label_X in zip(logits.softmax(1), labels, strict=True):
        for p_C, label in zip(p_CX.unbind(1), label_X.tolist(), strict=True):
            if label != IGNORE:
                p = p_C[label]
                terms.append(-alpha[label] * (1 - p) ** gamma * p.log())
    only = {"ce_weight": 0, "dice_weight": 0, "focal_weight": 2, "focal_gamma": gamma}
    focal = loss_of(logits, labels, **only, class_weight_C=alpha if weighted else None)
    torch.testing.assert_close(focal, 2 * torch.stack(terms).mean())


def test_the_focal_loss_with_gamma_0_is_cross_entropy() -> None:
    logits, labels = batch()
    focal = loss_of(logits, labels, ce_weight=0, focal_weight=1, focal_gamma=0)
    torch.testing.assert_close(focal, loss_of(logits, labels))


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 1, 2])
def test_the_focal_loss_of_what_is_surely_right_has_a_finite_slope(gamma: float) -> None:
    _, labels = batch()
    labels[labels == IGNORE] = 0
    sure = (200 * F.one_hot(labels.long(), CLASSES).transpose(1, 2).float()).requires_grad_()
    loss = loss_of(sure, labels, focal_weight=1, focal_gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert sure.grad is not None
    assert sure.grad.abs().max() < 1e-5


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 400), min_size=CLASSES, max_size=CLASSES).filter(any),
    ignored=st.integers(0, 20),
    balance=st.floats(0.01, 1),
)
def test_class_weights_follow_the_shares_of_the_pixels(
    counts: list[int], ignored: int, balance: float
) -> None:
    values = [c for c, count in enumerate(counts) for _ in range(count)] + [IGNORE] * ignored
    labels = torch.tensor(values, dtype=torch.uint8)
    weight_C = class_weights(labels, CLASSES, balance)
    assert weight_C is not None
    labelled = labels[labels != IGNORE].long()
    assert weight_C[labelled].mean().item() == pytest.approx(1, rel=1e-4)
    assert ((weight_C == 0) == (torch.tensor(counts) == 0)).all()
    present = [c for c in range(CLASSES) if counts[c]]
    for c in present:
        ratio = (counts[c] / counts[present[0]]) ** -balance
        assert weight_C[c] / weight_C[present[0]] == pytest.approx(ratio, rel=1e-4)
    if balance == 1:
        each = weight_C[present] * torch.tensor(counts)[present]
        assert each.tolist() == pytest.approx([len(labelled) / len(present)] * len(present), 1e-4)


def test_without_balance_or_labels_there_is_nothing_to_weigh() -> None:
    _, labels = batch()
    assert class_weights(labels, CLASSES, 0) is None
    weight_C = class_weights(torch.full_like(labels, IGNORE), CLASSES, 0.5)
    assert weight_C is not None
    assert weight_C.tolist() == [0] * CLASSES


@TERMS
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 6), max_size=3))
def test_parts_of_a_batch_add_up_with_their_gradients(
    terms: dict[str, Any], seed: int, cuts: list[int]
) -> None:
    logits, labels = batch(7, seed=seed)
    logits.requires_grad_()
    totals = BatchTotals.of(labels, CLASSES)
    whole = segmentation_loss(logits, labels, totals, **terms)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = zip(
        torch.tensor_split(logits, sorted(cuts)), torch.tensor_split(labels, sorted(cuts)),
        strict=True,
    )  # fmt: skip
    together = sum(segmentation_loss(x, y, totals, **terms) for x, y in parts)
    torch.testing.assert_close(together, whole)
    torch.testing.assert_close(torch.autograd.grad(together, logits)[0], expected)


@TERMS
def test_unlabelled_pixels_have_no_part_in_loss_or_gradient(terms: dict[str, Any]) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    before = loss_of(logits, labels, **terms)
    (gradient,) = torch.autograd.grad(before, logits)
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert (gradient[ignored] == 0).all()
    changed = torch.where(ignored, 50 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss_of(changed, labels, **terms), before)


@TERMS
def test_a_batch_without_labels_costs_nothing(terms: dict[str, Any]) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    loss = loss_of(logits, torch.full_like(labels, IGNORE), **terms)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
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
