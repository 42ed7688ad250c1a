"""Predicts class maps at full label resolution and scores them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.metrics.iou import confusion_matrix, iou_per_class, mean_iou
from ssprompt_core.train.data import LabelledEmbeddings


@dataclass(frozen=True)
class Scores:
    """How well a model segments some images; pixels of all images are pooled.

    Attributes:
        confusion: Pixels by true (row) and predicted (column) class, int64 ``[C, C]``.
        iou: Per class, float64 ``[C]``; NaN where the ground truth lacks the class.
        miou: Mean over the other classes.
        image_miou: Mean IoU of each image by itself, over the classes that its label shows; NaN
            where it shows none.
    """

    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    miou: float
    image_miou: tuple[float, ...]


def predict(
    model: FewShotModel,
    embeddings_nDhw: Embeddings,
    sizes: Sequence[tuple[int, int]],
    *,
    batch_size: int,
    device: str,
) -> list[NDArray[np.uint8]]:
    """Predict class maps.

    Args:
        model: Moved to ``device``.
        embeddings_nDhw: Frozen image embeddings, float.
        sizes: Height and width of each image.
        batch_size: Images moved to the device at once.
        device: ``cpu`` or ``cuda``.

    Returns:
        Class maps, uint8 ``[H, W]`` each, of the images' own sizes.
    """
    maps = _class_maps(model, embeddings_nDhw, sizes, batch_size, device)
    return [class_map.to(torch.uint8).cpu().numpy() for class_map in maps]


def evaluate(
    model: FewShotModel,
    data: LabelledEmbeddings,
    num_classes: int,
    *,
    batch_size: int,
    device: str,
) -> Scores:
    """Score a model at the labels' own resolution.

    Args:
        model: Moved to ``device``.
        data: Images with labels.
        num_classes: ``C``.
        batch_size: Images moved to the device at once.
        device: ``cpu`` or ``cuda``.
    """
    confusion_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    maps = _class_maps(model, data.embeddings, data.sizes, batch_size, device)
    image_miou = []
    for class_map, label in zip(maps, data.labels, strict=True):
        truth = torch.from_numpy(np.ascontiguousarray(label)).to(class_map.device)
        of_image_CC = confusion_matrix(class_map, truth, num_classes).cpu()
        confusion_CC += of_image_CC
        image_miou.append(mean_iou(of_image_CC))
    iou_C = iou_per_class(confusion_CC)
    return Scores(confusion_CC.numpy(), iou_C.numpy(), float(iou_C.nanmean()), tuple(image_miou))


def _class_maps(
    model: FewShotModel,
    embeddings_nDhw: Embeddings,
    sizes: Sequence[tuple[int, int]],
    batch_size: int,
    device: str,
) -> Iterator[Tensor]:
    model.place(device)
    for start in range(0, len(sizes), batch_size):
        batch = embeddings_nDhw[start : start + batch_size].to(device, torch.float32)
        with torch.no_grad():
            logits_BCyx = model.class_logits(batch)
        for logits_Cyx, (height, width) in zip(
            logits_BCyx, sizes[start : start + batch_size], strict=True
        ):
            # one image at a time: logits at full size are the largest tensors of a study
            yield model.segmenter.upscale_logits(logits_Cyx[None], height, width)[0].argmax(0)
