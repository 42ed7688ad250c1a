"""Confusion matrix and IoU against a naive count, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.metrics.iou import confusion_matrix, iou_per_class, mean_iou

CLASSES = 4


@st.composite
def pictures(draw: st.DrawFn, ignored: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a label map of few pixels, so that classes are often absent."""
    count = draw(st.integers(1, 24))
    classes = st.integers(0, CLASSES - 1)
    labels = st.sampled_from([*range(CLASSES), IGNORE]) if ignored else classes
    prediction = draw(st.lists(classes, min_size=count, max_size=count))
    label = draw(st.lists(labels, min_size=count, max_size=count))
    return torch.tensor(prediction).to(torch.uint8), torch.tensor(label).to(torch.uint8)


def naive_iou(prediction: torch.Tensor, label: torch.Tensor) -> NDArray[np.float64]:
    result = []
    for c in range(CLASSES):
        intersection = union = true = 0
        for p, t in zip(prediction.tolist(), label.tolist(), strict=True):
            if t == IGNORE:
                continue
            true += t == c
            intersection += p == c and t == c
            union += p == c or t == c
        result.append(intersection / union if true else math.nan)
    return np.array(result)


def iou_of(prediction: torch.Tensor, label: torch.Tensor) -> NDArray[np.float64]:
    return iou_per_class(confusion_matrix(prediction, label, CLASSES)).numpy()


@settings(deadline=None)
@given(pair=pictures())
def test_it_equals_a_naive_count(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, label = pair
    expected = naive_iou(prediction, label)
    np.testing.assert_allclose(iou_of(prediction, label), expected)
    mean = mean_iou(confusion_matrix(prediction, label, CLASSES))
    present = expected[~np.isnan(expected)]
    np.testing.assert_allclose(mean, present.mean() if len(present) else math.nan)


@settings(deadline=None)
@given(pair=pictures(), other=st.integers(0, 254))
def test_ignored_pixels_count_nowhere(pair: tuple[torch.Tensor, torch.Tensor], other: int) -> None:
    prediction, label = pair
    ignored = label == IGNORE
    confusion = confusion_matrix(prediction, label, CLASSES)
    assert int(confusion.sum()) == int((~ignored).sum())
    # whatever is predicted there, valid or not
    changed = torch.where(ignored, torch.tensor(other, dtype=torch.uint8), prediction)
    assert torch.equal(confusion, confusion_matrix(changed, label, CLASSES))
    assert torch.equal(confusion, confusion_matrix(prediction[~ignored], label[~ignored], CLASSES))


@settings(deadline=None)
@given(pair=pictures(ignored=False))
def test_exchanging_prediction_and_truth_gives_the_same(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    prediction, label = pair
    forward, backward = iou_of(prediction, label), iou_of(label, prediction)
    assert torch.equal(
        confusion_matrix(prediction, label, CLASSES).T,
        confusion_matrix(label, prediction, CLASSES),
    )
    # each may lack a class that the other has
    both = ~np.isnan(forward) & ~np.isnan(backward)
    np.testing.assert_allclose(forward[both], backward[both])


@settings(deadline=None)
@given(pair=pictures(), order=st.permutations(range(CLASSES)), data=st.data())
def test_renumbered_classes_and_shuffled_pixels_change_nothing(
    pair: tuple[torch.Tensor, torch.Tensor], order: list[int], data: st.DataObject
) -> None:
    prediction, label = pair
    number = torch.full((256,), IGNORE, dtype=torch.uint8)
    number[:CLASSES] = torch.tensor(order, dtype=torch.uint8)
    shuffled = data.draw(st.permutations(range(len(label))))
    renumbered = iou_of(number[prediction.long()][shuffled], number[label.long()][shuffled])
    np.testing.assert_allclose(renumbered[order], iou_of(prediction, label))


@settings(deadline=None)
@given(first=pictures(), second=pictures())
def test_matrices_of_images_add_up(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> None:
    joined = [torch.cat([a, b]) for a, b in zip(first, second, strict=True)]
    total = confusion_matrix(*first, CLASSES) + confusion_matrix(*second, CLASSES)
    assert torch.equal(total, confusion_matrix(*joined, CLASSES))


def test_a_class_absent_from_the_truth_is_nan_even_if_predicted() -> None:
    label = torch.tensor([[0, 0], [1, 1]])
    confusion = confusion_matrix(torch.tensor([[0, 2], [1, 1]]), label, 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]
    iou = iou_per_class(confusion)
    assert iou[:2].tolist() == [0.5, 1.0]
    assert iou[2].isnan()
    assert mean_iou(confusion) == 0.75


def test_without_any_labelled_pixel_there_is_no_mean() -> None:
    nothing = torch.full((2, 3), IGNORE)
    assert math.isnan(mean_iou(confusion_matrix(torch.zeros(2, 3), nothing, CLASSES)))


def test_mistakes_are_named() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 3\), label has \(3, 2\)"):
        confusion_matrix(zeros, zeros.T, CLASSES)
    with pytest.raises(ValueError, match=r"label has classes 0 to 7, outside \[0, 4\)"):
        confusion_matrix(zeros, torch.tensor([[0, 0, 7], [0, 0, 0]]), CLASSES)
    with pytest.raises(ValueError, match=r"prediction has classes -1 to 0"):
        confusion_matrix(torch.tensor([[0, 0, 0], [0, 0, -1]]), zeros, CLASSES)
