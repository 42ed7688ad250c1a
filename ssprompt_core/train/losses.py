"""Cross-entropy, focal loss and dice, as shares of a batch that add up to the batch's loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE


@dataclass(frozen=True)
class BatchTotals:
    """What the losses of a whole batch are divided by.

    Workers and micro-batches see parts of a batch. Dividing every part by the totals of the whole
    makes their losses and gradients add up to those of the whole, however it is cut.

    Attributes:
        pixels: Number of labelled pixels, at least 1; int64 scalar.
        present: Number of (image, class) pairs with a labelled pixel, at least 1; int64 scalar.
    """

    pixels: Tensor
    present: Tensor

    @classmethod
    def of(cls, labels_BX: Tensor, num_classes: int) -> BatchTotals:
        """Count in the labels of a whole batch, integer ``[B, X]`` with 255 for "no class"."""
        pixels = (labels_BX != IGNORE).sum()
        present = _one_hot(labels_BX, num_classes).any(-1).sum()
        return cls(pixels.clamp_min(1), present.clamp_min(1))


def class_weights(labels: Tensor, num_classes: int, balance: float) -> Tensor | None:
    """Weights of the classes that make up for their unequal shares of the labelled pixels.

    A class with the share ``s_c`` of the labelled pixels gets a weight proportional to
    ``s_c ** -balance``, scaled so that the mean over these pixels is 1: with 0 each pixel counts
    alike, with 1 each class. A class without a pixel has none to weigh and gets 0.

    Args:
        labels: All labels of a fit, integer of any shape, with 255 for "no class".
        num_classes: ``C``.
        balance: In [0, 1].

    Returns:
        Float32 ``[C]`` on the labels' device; None where ``balance`` is 0: nothing to weigh.
    """
    if balance == 0:
        return None
    counts_C = torch.bincount(labels[labels != IGNORE].long(), minlength=num_classes).double()
    share_C = counts_C / counts_C.sum().clamp_min(1)
    weight_C = torch.where(share_C > 0, share_C**-balance, 0)
    return (weight_C / (share_C * weight_C).sum().clamp_min(1e-12)).float()


def segmentation_loss(
    logits_BCX: Tensor,
    labels_BX: Tensor,
    totals: BatchTotals,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
    focal_weight: float = 0.0,
    focal_gamma: float = 2.0,
    class_weight_C: Tensor | None = None,
) -> Tensor:
    """Weighted sum of cross-entropy, dice and focal loss over part of a batch.

    Cross-entropy is the mean over labelled pixels. The focal loss (arXiv 1708.02002, equation 5,
    with the softmax probability ``p`` of the right class and the class weight as alpha) is the mean
    of ``-alpha (1 - p)^gamma log p`` over labelled pixels. Dice (arXiv 1606.04797) is the mean of
    ``1 - (2 p.y + 1) / (sum p + sum y + 1)`` over the (image, class) pairs whose class has a
    labelled pixel, where ``p`` are softmax probabilities over the classes: the logits of one class
    are only ever read beside the others'.

    Args:
        logits_BCX: Class logits of ``X`` pixels an image, float.
        labels_BX: Classes or 255 (not trained on), integer.
        totals: Of the whole batch.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of dice.
        focal_weight: Weight of the focal loss.
        focal_gamma: At least 0; at 0 the focal loss is the cross-entropy.
        class_weight_C: Weight of a pixel by its class in cross-entropy and focal loss, see
            :func:`class_weights`; None weighs all alike.

    Returns:
        Float32 scalar.
    """
    log_p_BCX = logits_BCX.float().log_softmax(dim=1)
    y_BCX = _one_hot(labels_BX, logits_BCX.shape[1])
    counted_B1X = (labels_BX != IGNORE)[:, None]
    right_BCX = log_p_BCX * y_BCX
    weighted_BCX = right_BCX
    if class_weight_C is not None:
        weighted_BCX = right_BCX * class_weight_C[:, None]
    loss = -ce_weight * weighted_BCX.sum() / totals.pixels
    if focal_weight:
        # away from 0, where the slope of a power below 1 has no bound
        miss_B1X = (-right_BCX.sum(1, keepdim=True).expm1()).clamp_min(1e-12)
        focal = (miss_B1X**focal_gamma * weighted_BCX).sum() / totals.pixels
        loss = loss - focal_weight * focal
    if dice_weight:
        p_BCX = log_p_BCX.exp() * counted_B1X
        overlap_BC = (p_BCX * y_BCX).sum(-1)
        dice_BC = 1 - (2 * overlap_BC + 1) / (p_BCX.sum(-1) + y_BCX.sum(-1) + 1)
        loss = loss + dice_weight * (dice_BC * y_BCX.any(-1)).sum() / totals.present
    return loss


def _one_hot(labels_BX: Tensor, num_classes: int) -> Tensor:
    """Bool ``[B, C, X]``; all false where the label is 255."""
    classes_C1 = torch.arange(num_classes, device=labels_BX.device)[:, None]
    return labels_BX[:, None].long() == classes_C1
