"""IoU against its definition pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssprompt_core.metrics.iou import confusion_matrix, iou_per_class, mean_iou

C = 4
maps = arrays(np.uint8, (6, 5), elements=st.integers(0, C - 1))
labels_ = arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))


def _iou(prediction: np.ndarray, label: np.ndarray) -> torch.Tensor:
    return iou_per_class(confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), C))


@given(maps, labels_)
def test_it_is_intersection_over_union_of_counted_pixels(p: np.ndarray, y: np.ndarray) -> None:
    counted = y != 255
    for c, value in enumerate(_iou(p, y).tolist()):
        truth, guess = (y == c) & counted, (p == c) & counted
        if truth.any():
            assert value == pytest.approx((truth & guess).sum() / (truth | guess).sum())
        else:
            assert np.isnan(value)


@given(maps, labels_, st.permutations(range(C)))
def test_renaming_classes_renames_the_scores(
    p: np.ndarray, y: np.ndarray, order: list[int]
) -> None:
    table = np.array([*order, *range(C, 256)], np.uint8)
    torch.testing.assert_close(_iou(table[p], table[y])[order], _iou(p, y), equal_nan=True)


@given(maps, labels_, maps, labels_)
def test_matrices_of_images_add_up(
    p: np.ndarray, y: np.ndarray, q: np.ndarray, z: np.ndarray
) -> None:
    both = confusion_matrix(
        torch.from_numpy(np.stack([p, q])), torch.from_numpy(np.stack([y, z])), C
    )
    parts = [
        confusion_matrix(torch.from_numpy(a), torch.from_numpy(b), C) for a, b in ((p, y), (q, z))
    ]
    assert torch.equal(both, parts[0] + parts[1])


def test_the_mean_is_over_classes_that_occur() -> None:
    label = torch.tensor([0, 0, 1, 1])
    matrix = confusion_matrix(torch.tensor([0, 2, 1, 1]), label, C)
    assert mean_iou(matrix) == pytest.approx((1 / 2 + 1) / 2)


def test_classes_and_shapes_out_of_range_are_refused() -> None:
    zeros = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(zeros, zeros[0], C)
    for prediction, label in ((zeros + C, zeros), (zeros, zeros + C)):
        with pytest.raises(ValueError, match=r"outside\s+\[0, 4\)"):
            confusion_matrix(prediction, label, C)
