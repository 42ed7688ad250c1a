"""Confusion matrix, intersection over union per class, and their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class.

    Args:
        prediction: Predicted classes in ``[0, C)``, integer, any shape.
        label: True classes in ``[0, C)`` or 255, which is not counted; integer, same shape.
        num_classes: ``C``.

    Returns:
        Int64 ``[C, C]``: row = true class, column = predicted class. Matrices of several images
        add up to that of all.

    Raises:
        ValueError: Shapes differ, or a class is out of range.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, label has {tuple(label.shape)}"
        )
    counted = label != IGNORE
    truth, guess = label[counted].long(), prediction[counted].long()
    for name, values in (("label", truth), ("prediction", guess)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name} has classes {int(values.min())} to {int(values.max())}, outside "
                f"[0, {num_classes})"
            )
    counts = torch.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def iou_per_class(confusion_CC: Tensor) -> Tensor:
    """Intersection over union, float64 ``[C]`` in [0, 1].

    A class that has no pixel in the ground truth gets NaN, even where it is predicted: nothing says
    how well it is found. Its wrongly predicted pixels still count, as misses of the true classes.
    """
    counts_CC = confusion_CC.double()
    true_C, predicted_C = counts_CC.sum(1), counts_CC.sum(0)
    intersection_C = counts_CC.diagonal()
    iou_C = intersection_C / (true_C + predicted_C - intersection_C).clamp_min(1)
    return torch.where(true_C > 0, iou_C, torch.nan)


def mean_iou(confusion_CC: Tensor) -> float:
    """Mean over the classes that the ground truth has, in [0, 1]; NaN if it has none."""
    return float(iou_per_class(confusion_CC).nanmean())
