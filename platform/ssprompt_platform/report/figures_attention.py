"""Pictures of where spatial prompts attend: learned ones beside the default grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ssprompt_platform.report.figures import save
from ssprompt_platform.storage import Place

_MOST_PROMPTS = 16
_LEAST, _MOST = 0.2, 20.0
"""Ends of the colour scale."""


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of spatial prompts over one image.

    Attributes:
        image_id: Of the data set.
        image: RGB, uint8 ``[H, W, 3]``.
        points: The default grid, (x, y) in [0, 1] of the padded square, float ``[N, 2]``.
        default: Maps of the frozen grid's prompts over the padded square, float ``[N, h, w]``.
        learned: Maps of the learned prompts, float ``[N, h, w]``.
    """

    image_id: str
    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    default: NDArray[np.float32]
    learned: NDArray[np.float32]


def mean_attention(path: Place, images: Sequence[AttentionMaps], title: str) -> None:
    """Mean over the prompts, default beside learned, a row per image, as a PNG."""
    ratio = [min(1.5, maps.image.shape[0] / maps.image.shape[1]) for maps in images]
    figure = Figure(figsize=(8.4, 2.4 * sum(ratio) + 1.1), dpi=130, layout="constrained")
    grid = figure.subplots(len(images), 3, squeeze=False, height_ratios=ratio)
    shown: Any = None
    for row, maps in zip(grid, images, strict=True):
        row[0].imshow(maps.image)
        _points(row[0], maps, range(len(maps.points)))
        row[0].set_title(f"{maps.image_id}, points of the grid", fontsize=8)
        _heat(row[1], maps, maps.default.mean(0))
        row[1].set_title("default grid, mean of all prompts", fontsize=8)
        shown = _heat(row[2], maps, maps.learned.mean(0))
        row[2].set_title("learned, mean of all prompts", fontsize=8)
        for axes in row:
            _frame(axes, maps)
    _scale(figure, shown, ax=grid, shrink=0.8, pad=0.01)
    figure.suptitle(title, fontsize=9)
    save(figure, path)


def prompt_attention(path: Place, maps: AttentionMaps, title: str) -> None:
    """The map of each prompt on one image, default beside learned, as a PNG."""
    count = len(maps.points)
    # too many to read: an even choice
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_PROMPTS)).round().astype(int))
    columns = int(np.ceil(np.sqrt(len(chosen))))
    rows = int(np.ceil(len(chosen) / columns))
    height, width = maps.image.shape[:2]
    # an axes a prompt would take seconds to lay out: one for each half, in pixels of the image
    step_x, step_y = 1.06 * width, height + 0.16 * width
    figure = Figure(
        figsize=(9.6, min(12.0, 4.2 * rows * step_y / (columns * step_x)) + 0.9),
        dpi=150,
        layout="constrained",
    )
    grid = figure.subplots(1, 2, squeeze=False)[0]
    shown: Any = None
    both = (("default grid", maps.default), ("learned", maps.learned))
    for axes, (name, maps_Nhw) in zip(grid, both, strict=True):
        for place, n in enumerate(chosen):
            corner = (place % columns * step_x, place // columns * step_y)
            shown = _heat(axes, maps, maps_Nhw[n], corner)
            _points(axes, maps, [n], corner)
            axes.text(
                corner[0] + width / 2, corner[1] - 0.03 * width, f"prompt {n + 1}",
                ha="center", va="bottom", fontsize=6,
            )  # fmt: skip
        axes.set_xlim(-0.5, columns * step_x)
        axes.set_ylim(rows * step_y - 0.16 * width, -0.16 * width)
        axes.set_axis_off()
        axes.set_title(name, fontsize=9)
    _scale(figure, shown, ax=grid, shrink=0.8, pad=0.01)
    figure.suptitle(title, fontsize=9)
    save(figure, path)


def _heat(
    axes: Axes,
    maps: AttentionMaps,
    map_hw: NDArray[np.float32],
    corner: tuple[float, float] = (0.0, 0.0),
) -> Any:
    """A map over the grey picture; the scale is the same for all maps of all studies."""
    height, width = maps.image.shape[:2]
    x, y = corner[0] - 0.5, corner[1] - 0.5
    frame = (x, x + width, y + height, y)
    axes.imshow(maps.image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=frame)
    side = max(height, width)
    heat = axes.imshow(
        np.maximum(map_hw * map_hw.size, 1e-6), cmap="magma", norm=LogNorm(_LEAST, _MOST),
        alpha=0.8, extent=(x, x + side, y + side, y), interpolation="nearest",
    )  # fmt: skip
    # the padding of the square is no part of the picture
    heat.set_clip_path(Rectangle((x, y), width, height, transform=axes.transData))
    return heat


def _scale(figure: Figure, shown: Any, **place: Any) -> None:
    bar = figure.colorbar(shown, format="%g", extend="both", **place)
    bar.set_label("attention, times that of an even spread", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _points(
    axes: Axes,
    maps: AttentionMaps,
    which: Sequence[int],
    corner: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Points of the default grid, where they do not lie in the padding."""
    height, width = maps.image.shape[:2]
    x, y = (maps.points[list(which)] * max(height, width) - 0.5).T
    inside = (x < width) & (y < height)
    x, y = corner[0] + x[inside], corner[1] + y[inside]
    axes.plot(x, y, "+", color="white", markersize=8, markeredgewidth=2.6)
    axes.plot(x, y, "+", color="#0072B2", markersize=7, markeredgewidth=1.3)


def _frame(axes: Axes, maps: AttentionMaps) -> None:
    """Cut off the padding of the square."""
    height, width = maps.image.shape[:2]
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()
