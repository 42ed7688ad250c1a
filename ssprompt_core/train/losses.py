"""Cross-entropy over classes and dice, as shares of a batch that add up to the batch's loss."""

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


def segmentation_loss(
    logits_BCX: Tensor,
    labels_BX: Tensor,
    totals: BatchTotals,
    *,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
) -> Tensor:
    """Weighted sum of cross-entropy and dice over part of a batch.

    Cross-entropy is the mean over labelled pixels. Dice (arXiv 1606.04797) is the mean of
    ``1 - (2 p.y + 1) / (sum p + sum y + 1)`` over the (image, class) pairs whose class has a
    labelled pixel, where ``p`` are softmax probabilities over the classes: the logits of one class
    are only ever read beside the others'.

    Args:
        logits_BCX: Class logits of ``X`` pixels an image, float.
        labels_BX: Classes or 255 (not trained on), integer.
        totals: Of the whole batch.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of dice.

    Returns:
        Float32 scalar.
    """
    log_p_BCX = logits_BCX.float().log_softmax(dim=1)
    y_BCX = _one_hot(labels_BX, logits_BCX.shape[1])
    counted_B1X = (labels_BX != IGNORE)[:, None]
    loss = -ce_weight * (log_p_BCX * y_BCX).sum() / totals.pixels
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
