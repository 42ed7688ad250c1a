"""Scores a fitted model on images; called with test images by the final fits and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ssprompt_core.evaluate import evaluate, predict
from ssprompt_core.methods import FewShotModel
from ssprompt_core.metrics.iou import iou_per_class
from ssprompt_platform.bench import Bench


@dataclass(frozen=True)
class Score:
    """Result over a set of images: pixels of one image weigh like those of any other.

    Attributes:
        miou: Mean IoU over the classes that occur, in [0, 1].
        iou: IoU per class, float64 ``[C]``; NaN where no label shows the class.
        image_miou: Mean IoU of each image that this worker scored, by itself; NaN where its label
            shows no class.
    """

    miou: float
    iou: NDArray[np.float64]
    image_miou: tuple[float, ...]


def score(
    bench: Bench,
    model: FewShotModel,
    image_ids: Sequence[str],
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Score:
    """Mean IoU of a model over images, read in batches so that any number fits into memory.

    Args:
        bench: Data and stored embeddings.
        model: The fitted model.
        image_ids: Images with labels.
        rank: Which share of the images this worker takes; the shares are joined by all_reduce.
        world_size: How many workers share.
    """
    confusion_CC = torch.zeros(bench.num_classes, bench.num_classes, dtype=torch.int64)
    image_miou: list[float] = []
    mine = list(image_ids)[rank::world_size]
    step = bench.train.eval_batch_size
    for start in range(0, len(mine), step):
        data = bench.labelled(mine[start : start + step])
        scores = evaluate(
            model, data, bench.num_classes, batch_size=step, device=bench.resources.device
        )
        confusion_CC += torch.as_tensor(scores.confusion).to("cpu", torch.int64)
        image_miou += scores.image_miou
    if world_size > 1:
        torch.distributed.all_reduce(confusion_CC)
    iou_C = np.asarray(iou_per_class(confusion_CC), np.float64)
    return Score(float(np.nanmean(iou_C)), iou_C, tuple(image_miou))


def worst_images(
    image_ids: Sequence[str], image_miou: Sequence[float | None], count: int
) -> list[str]:
    """The images of lowest score, worst first; equal scores in the order of the images.

    Args:
        image_ids: All scored images.
        image_miou: Their scores; NaN or None where there is none, which never counts as bad.
        count: How many at most.
    """
    known = [
        (value, number)
        for number, value in enumerate(image_miou)
        if value is not None and not np.isnan(value)
    ]
    return [image_ids[number] for _, number in sorted(known)[:count]]


def predictions(
    bench: Bench, model: FewShotModel, image_ids: Sequence[str]
) -> dict[str, NDArray[np.uint8]]:
    """Predicted class maps, uint8 ``[H, W]`` each, for pictures."""
    data = bench.labelled(image_ids)
    maps = predict(
        model,
        data.embeddings,
        data.sizes,
        batch_size=bench.train.eval_batch_size,
        device=bench.resources.device,
    )
    return dict(zip(image_ids, maps, strict=True))


def ground_truth(bench: Bench, image_id: str) -> NDArray[np.uint8]:
    """The label of a test image beside its predictions in a picture, uint8 ``[H, W]``."""
    return bench.dataset.label(image_id)
