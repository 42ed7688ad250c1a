"""Pictures of a study: the learning curve, and predictions beside ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_platform.storage import write_whole

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


def colour_labels(label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A class map as colours, uint8 ``[H, W, 3]``; pixels of no class are white."""
    colours: NDArray[np.uint8] = _PALETTE[label_HW.astype(np.int64) % len(_PALETTE)]
    colours[label_HW == IGNORE] = 255
    return colours


def learning_curve(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """MIoU over K with confidence intervals, one line per method, as a PNG."""
    figure = Figure(figsize=(7.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    shots = sorted({row["shots"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for number, method in enumerate(methods):
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: r["shots"])
        # side by side, or the intervals of several methods cover each other
        shift = 2 ** (0.06 * (number - (len(methods) - 1) / 2))
        x = [row["shots"] * shift for row in own]
        y = [row["mean"] for row in own]
        error = [0.0 if row["ci95"] is None else row["ci95"][1] - row["mean"] for row in own]
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, capsize=3, label=method)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    # an interval over very few draws may reach far outside of what an IoU can be
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.set_xlabel("K, labelled images per class")
    axes.set_ylabel("mIoU on the test split (mean, 95 % CI)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    # beside the axes: inside it would cover an interval
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def overlay(
    path: Path,
    image_HW3: NDArray[np.uint8],
    truth_HW: NDArray[np.uint8],
    predicted: Mapping[str, NDArray[np.uint8]],
    class_names: Sequence[str],
) -> None:
    """Image, ground truth and the predictions of each method side by side, as a PNG.

    Args:
        path: Where to write.
        image_HW3: The picture.
        truth_HW: Its class map.
        predicted: Class map of each method.
        class_names: For the legend.
    """
    panels = {"image": None, "ground truth": truth_HW, **predicted}
    figure = Figure(figsize=(2.1 * len(panels), 2.9), dpi=130, layout="constrained")
    columns: list[Axes] = list(np.atleast_1d(figure.subplots(1, len(panels))))
    for axes, (title, label_HW) in zip(columns, panels.items(), strict=True):
        axes.imshow(image_HW3 if label_HW is None else _tint(image_HW3, label_HW))
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    shown = sorted({int(c) for m in (truth_HW, *predicted.values()) for c in np.unique(m)})
    handles = [
        Patch(color=tuple(_PALETTE[c % len(_PALETTE)] / 255), label=class_names[c])
        for c in shown
        if c != IGNORE
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=7, frameon=False)
    _save(figure, path)


def _tint(image_HW3: NDArray[np.uint8], label_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class colours over the picture in grey: in colour it would change what the legend says."""
    grey_HW1 = image_HW3.mean(axis=2, keepdims=True)
    tinted: NDArray[np.uint8] = (0.3 * grey_HW1 + 0.7 * colour_labels(label_HW)).astype(np.uint8)
    return tinted


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))
