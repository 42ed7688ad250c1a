"""Losses: textbook values, shares that add up, ignored pixels that do not count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ssprompt_core.train.losses import BatchTotals, segmentation_loss


def _case(seed: int, b: int = 3, c: int = 4, x: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, c, (b, x), generator=generator)
    labels[torch.rand(b, x, generator=generator) < 0.2] = 255
    return torch.randn(b, c, x, generator=generator), labels


@given(st.integers(0, 10_000))
def test_cross_entropy_is_torchs_own(seed: int) -> None:
    logits, labels = _case(seed)
    totals = BatchTotals.of(labels, 4)
    ours = segmentation_loss(logits, labels, totals, dice_weight=0)
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, ignore_index=255))


def test_dice_is_its_definition_written_out() -> None:
    logits, labels = _case(1)
    p = logits.softmax(1)
    terms = []
    for b in range(3):
        counted = labels[b] != 255
        for c in range(4):
            y = (labels[b] == c).float()
            if y.any():
                q = p[b, c] * counted
                terms.append(1 - (2 * (q * y).sum() + 1) / (q.sum() + y.sum() + 1))
    ours = segmentation_loss(logits, labels, BatchTotals.of(labels, 4), ce_weight=0)
    torch.testing.assert_close(ours, torch.stack(terms).mean())


@given(st.integers(0, 10_000), st.integers(1, 2))
def test_shares_of_a_batch_add_up_to_the_batch(seed: int, cut: int) -> None:
    logits, labels = _case(seed)
    totals = BatchTotals.of(labels, 4)
    parts = [
        segmentation_loss(logits[part], labels[part], totals)
        for part in (slice(None, cut), slice(cut, None))
    ]
    torch.testing.assert_close(sum(parts), segmentation_loss(logits, labels, totals))


@given(st.integers(0, 10_000))
def test_logits_of_ignored_pixels_have_no_say(seed: int) -> None:
    logits, labels = _case(seed)
    changed = torch.where((labels == 255)[:, None], logits + 50 * torch.randn(3, 1, 1), logits)
    totals = BatchTotals.of(labels, 4)
    torch.testing.assert_close(
        segmentation_loss(changed, labels, totals), segmentation_loss(logits, labels, totals)
    )


def test_a_batch_without_labels_costs_nothing() -> None:
    logits, labels = _case(0)
    labels[:] = 255
    assert segmentation_loss(logits, labels, BatchTotals.of(labels, 4)) == 0
