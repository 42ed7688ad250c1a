"""Scores a fitted model: on labelled images of any kind, and, in one function, on test images."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.evaluate import predict
from ssprompt_core.methods import FewShotModel
from ssprompt_core.metrics.iou import confusion_matrix, iou_per_class, mean_iou
from ssprompt_platform.bench import Bench
from ssprompt_platform.sealed import SealedDataset
from ssprompt_platform.shown import ShownImage as ShownImage


@dataclass(frozen=True)
class Score:
    """Result over a set of images: pixels of one image weigh like those of any other.

    Attributes:
        miou: Mean IoU over the classes that occur, in [0, 1].
        iou: IoU per class, float64 ``[C]``; NaN where no label shows the class.
        image_miou: Mean IoU of each image by itself, in the order of the images; NaN where its
            label shows no class.
    """

    miou: float
    iou: NDArray[np.float64]
    image_miou: tuple[float, ...]


@dataclass(frozen=True)
class TestScore:
    """Result of a final fit on the test images.

    Attributes:
        score: Over all of them.
        shown: Those asked for, then the worst others, worst first.
    """

    score: Score
    shown: list[ShownImage]

    # not a test class, whatever its name says to pytest
    __test__ = False


def score_test(
    bench: Bench,
    model: FewShotModel,
    test_ids: Sequence[str],
    pictured: Sequence[str] = (),
    worst: int = 0,
) -> TestScore:
    """Score a final fit on the test images, reading each label once.

    The only function that opens the test split. What pictures need of it is handed out with the
    score, so that nothing asks for a test label again.

    Args:
        bench: Data, sealed, and stored embeddings.
        model: Fitted.
        test_ids: What is scored.
        pictured: Images to hand out, some of ``test_ids``.
        worst: How many other images of the lowest scores to hand out too.

    Raises:
        TypeError: The data is not sealed, so that something else could read its test labels.
    """
    if not isinstance(bench.dataset, SealedDataset):
        raise TypeError(f"test images need a sealed data set, not a {type(bench.dataset).__name__}")
    dataset = bench.dataset.open_test()
    opened = bench.with_dataset(dataset)
    confusion_CC = _nothing(bench)
    image_miou: list[float] = []
    low: list[tuple[float, int]] = []
    # number -> truth and prediction; of images that are not pictured only the worst so far
    kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for number, (of_image_CC, truth, predicted) in enumerate(_scored(opened, model, test_ids)):
        confusion_CC += of_image_CC
        miou = mean_iou(of_image_CC)
        image_miou.append(miou)
        if test_ids[number] in pictured:
            kept[number] = truth, predicted
        elif not math.isnan(miou):
            kept[number] = truth, predicted
            insort(low, (miou, number))
            for _, better in low[worst:]:
                del kept[better]
            del low[worst:]
    numbers = [test_ids.index(image_id) for image_id in dict.fromkeys(pictured)]
    shown = [
        ShownImage(
            test_ids[number],
            dataset.image(test_ids[number]),
            *kept[number],
            None if math.isnan(image_miou[number]) else image_miou[number],
        )
        for number in [*numbers, *(number for _, number in low)]
    ]
    iou_C = iou_per_class(confusion_CC).numpy()
    return TestScore(Score(mean_iou(confusion_CC), iou_C, tuple(image_miou)), shown)


def confusion(
    bench: Bench,
    model: FewShotModel,
    image_ids: Sequence[str],
    rank: int = 0,
    world_size: int = 1,
) -> NDArray[np.int64]:
    """Pixels by true (row) and predicted (column) class, int64 ``[C, C]``, over all images.

    Matrices of several folds add up to that of all their images. Labels are read in batches, so
    that any number of images fits into memory.

    Args:
        bench: Data and stored embeddings.
        model: Fitted.
        image_ids: What is scored.
        rank: Which share of the images this worker takes; the shares are joined by all_reduce.
        world_size: How many workers share.

    Raises:
        PermissionError: An image belongs to the test split.
    """
    confusion_CC = _nothing(bench)
    for of_image_CC, _, _ in _scored(bench, model, list(image_ids)[rank::world_size]):
        confusion_CC += of_image_CC
    if world_size > 1:
        # NCCL joins tensors of its own device only
        confusion_CC = confusion_CC.to(bench.resources.device)
        torch.distributed.all_reduce(confusion_CC)
    joined: NDArray[np.int64] = confusion_CC.cpu().numpy()
    return joined


def miou_of(confusion_CC: NDArray[np.int64]) -> float:
    """Mean IoU in [0, 1] over the classes that the ground truth has; NaN if it has none."""
    return mean_iou(torch.from_numpy(confusion_CC))


def _nothing(bench: Bench) -> Tensor:
    return torch.zeros(bench.num_classes, bench.num_classes, dtype=torch.int64)


def _scored(
    bench: Bench, model: FewShotModel, image_ids: Sequence[str]
) -> Iterator[tuple[Tensor, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Confusion matrix ``[C, C]``, label and predicted class map, image by image."""
    step, device = bench.train.eval_batch_size, bench.resources.device
    for start in range(0, len(image_ids), step):
        data = bench.labelled(image_ids[start : start + step])
        maps = predict(model, data.embeddings, data.sizes, batch_size=step, device=device)
        for truth, predicted in zip(data.labels, maps, strict=True):
            of_image_CC = confusion_matrix(
                torch.from_numpy(predicted).to(device),
                torch.from_numpy(np.ascontiguousarray(truth)).to(device),
                bench.num_classes,
            )
            yield of_image_CC.cpu(), truth, predicted
