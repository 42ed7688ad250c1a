"""Figures of predictions: the best and the worst test images of a method, all methods on one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_platform.report.figures import class_legend, tint
from ssprompt_platform.report.figures_base import sheet, short
from ssprompt_platform.shown import ShownImage

_FEW = 2
"""Images of either end."""


def ends(shown: Sequence[ShownImage]) -> tuple[list[ShownImage], list[ShownImage]]:
    """The images of highest and of lowest mIoU, each image in one of them at most."""
    scored = sorted((s for s in shown if s.miou is not None), key=lambda s: s.miou or 0.0)
    few = min(_FEW, len(scored) // 2)
    worst, best = scored[:few], scored[::-1][:few]
    return (best, worst) if few else (scored, [])


def best_and_worst(shown: Sequence[ShownImage], class_names: Sequence[str]) -> Figure:
    """A row per image: image, ground truth, prediction and what of it is wrong."""
    best, worst = ends(shown)
    images = best + worst
    ratio = [min(1.5, s.image.shape[0] / s.image.shape[1]) for s in images]
    figure = sheet(7.6, 1.85 * sum(ratio) + 0.25 * len(images) + 0.9)
    grid = figure.subplots(len(images), 4, squeeze=False, height_ratios=ratio)
    for row, one in zip(grid, images, strict=True):
        name = f"{'best' if one in best else 'worst'}: {short(one.image_id, 20)}"
        for axes, (title, picture) in zip(row, prediction_panels(one, name).items(), strict=True):
            axes.imshow(picture)
            axes.set_title(title, loc="center", fontsize=8)
            axes.set_axis_off()
    maps = [label for one in images for label in (one.truth, one.predicted)]
    class_legend(figure, maps, class_names, Patch(color="black", label="wrong"))
    return figure


def prediction_panels(one: ShownImage, name: str) -> dict[str, NDArray[np.uint8]]:
    """Title -> picture: the image, ground truth, prediction, and what of it is wrong.

    Args:
        one: The image; it has a score.
        name: Title of the image itself.
    """
    return {
        name: one.image,
        "ground truth": tint(one.image, one.truth),
        f"prediction, mIoU {one.miou:.3f}": tint(one.image, one.predicted),
        f"wrong, {wrong_share(one):.0%} of the pixels": error_map(one),
    }


def wrong_share(one: ShownImage) -> float:
    """Share of the labelled pixels of an image that are wrong, in [0, 1]."""
    labelled = one.truth != IGNORE
    return float((one.predicted != one.truth)[labelled].mean())


def error_map(one: ShownImage) -> NDArray[np.uint8]:
    """Right pixels as a pale grey picture, wrong ones black, pixels of no class white."""
    pale_HW = 150 + 0.4 * one.image.mean(axis=2)
    picture = np.repeat(pale_HW[..., None], 3, axis=2)
    picture[one.predicted != one.truth] = 0
    picture[one.truth == IGNORE] = 255
    return picture.astype(np.uint8)
