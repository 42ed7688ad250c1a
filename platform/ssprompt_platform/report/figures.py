"""Pictures of a study: the learning curve, and predictions beside ground truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_platform.report.figures_base import limit_to_iou, method_styles, short
from ssprompt_platform.storage import Place, write_whole

# seventeen hues that stay apart on white, then repeated for more classes
_PALETTE = np.array(
    [
        [86, 180, 233], [230, 159, 0], [0, 158, 115], [204, 121, 167], [213, 94, 0],
        [0, 114, 178], [240, 228, 66], [120, 94, 60], [153, 153, 153], [102, 51, 153],
        [170, 220, 120], [250, 160, 160], [60, 60, 60], [0, 200, 200], [200, 0, 80],
        [150, 110, 250], [20, 90, 40],
    ],
    np.uint8,
)  # fmt: skip

_PANELS = 8
"""Pictures in a row: more would be too small on a page."""


def colour_labels(label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A class map as colours, uint8 ``[H, W, 3]``; pixels of no class are white."""
    colours: NDArray[np.uint8] = _PALETTE[label_HW.astype(np.int64) % len(_PALETTE)]
    colours[label_HW == IGNORE] = 255
    return colours


def learning_curve(path: Place, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """The figure of :func:`curve_figure` as a PNG."""
    figure = curve_figure(rows)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def curve_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """MIoU over K with confidence intervals, one line per method.

    A method that learns nothing has neither K nor draws: a line without points.
    """
    shots = sorted({row["shots"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(7.8, max(4.2, 0.28 * len(methods) + 1)), dpi=150, layout="constrained")
    axes = figure.subplots()
    styles = method_styles(methods, {row["method"] for row in rows if row["deterministic"]})
    for number, method in enumerate(methods):
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: r["shots"])
        style = {"label": method, "linewidth": 1.3, **styles[method]}
        if own[0]["deterministic"]:
            axes.axhline(own[0]["mean"], **style)
            continue
        # side by side, or the intervals of several methods cover each other
        shift = 2 ** (0.5 / len(methods) * (number - (len(methods) - 1) / 2))
        x = [row["shots"] * shift for row in own]
        y = [row["mean"] for row in own]
        error = [0.0 if row["ci95"] is None else row["ci95"][1] - row["mean"] for row in own]
        axes.errorbar(x, y, error, markersize=5, capsize=2, **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    limit_to_iou(axes)
    axes.set_xlabel("K, labelled images per class")
    axes.set_ylabel("mIoU on the test split (mean, 95 % interval)")
    axes.grid(color="#e4e4e4")
    # beside the axes: inside it would cover an interval
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def overlay(
    path: Place,
    image_HW3: NDArray[np.uint8],
    truth_HW: NDArray[np.uint8],
    predicted: Mapping[str, NDArray[np.uint8]],
    class_names: Sequence[str],
) -> None:
    """The figure of :func:`overlay_figure` as a PNG."""
    save(overlay_figure(image_HW3, truth_HW, predicted, class_names), path)


def overlay_figure(
    image_HW3: NDArray[np.uint8],
    truth_HW: NDArray[np.uint8],
    predicted: Mapping[str, NDArray[np.uint8]],
    class_names: Sequence[str],
    across: int = _PANELS,
) -> Figure:
    """Image, ground truth and the predictions of each method side by side.

    Args:
        image_HW3: The picture.
        truth_HW: Its class map.
        predicted: Class map of each method.
        class_names: For the legend.
        across: Most pictures in a row.
    """
    panels = {"image": None, "ground truth": truth_HW, **predicted}
    rows = math.ceil(len(panels) / across)
    columns = math.ceil(len(panels) / rows)
    height = 2.0 * rows * min(1.5, image_HW3.shape[0] / image_HW3.shape[1]) + 0.3 * rows + 0.5
    figure = Figure(figsize=(2.1 * columns, height), dpi=130, layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.set_axis_off()
    for axes, (title, label_HW) in zip(places, panels.items(), strict=False):
        axes.imshow(image_HW3 if label_HW is None else tint(image_HW3, label_HW))
        axes.set_title(title, fontsize=9, loc="center")
    class_legend(figure, (truth_HW, *predicted.values()), class_names)
    return figure


def class_legend(
    figure: Figure, maps: Iterable[NDArray[np.uint8]], class_names: Sequence[str], *extra: Patch
) -> None:
    """A legend below the figure of the classes that some maps show."""
    shown = sorted({int(c) for label_HW in maps for c in np.unique(label_HW)} - {IGNORE})
    handles = [
        Patch(color=tuple(_PALETTE[c % len(_PALETTE)] / 255), label=short(class_names[c]))
        for c in shown
    ]
    handles += extra
    # of equal width in inches; a legend wider than the figure would be cut off
    entry = 0.5 + 0.07 * max((len(str(patch.get_label())) for patch in handles), default=0)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, int(figure.get_figwidth() / entry)),
        fontsize=7,
        frameon=False,
    )


def tint(image_HW3: NDArray[np.uint8], label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class colours over the picture in grey: in colour it would change what the legend says."""
    grey_HW1 = image_HW3.mean(axis=2, keepdims=True)
    tinted: NDArray[np.uint8] = (0.3 * grey_HW1 + 0.7 * colour_labels(label_HW)).astype(np.uint8)
    return tinted


def save(figure: Figure, path: Place) -> None:
    """Write a figure as a PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
