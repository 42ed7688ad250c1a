"""The fitted learning curve of each method with its band, up to where it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ssprompt_platform.report.figures_base import (
    INK,
    QUIET,
    label_below,
    limit_to_iou,
    log_axis,
    panels,
    short,
)

_LINE, _OTHER = "#0072B2", "#D55E00"


def fitted_curves(
    curves: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> Figure:
    """A panel per method: draws, means, the fitted curve with its band; grey is extrapolation.

    Args:
        curves: ``Curve.to_dict()`` by method.
        rows: One per method and K: ``method``, ``shots``, ``mean``, ``draws``.
    """
    figure, grid = panels(list(curves))
    for method, axes in grid.items():
        _curve(axes, curves[method], [row for row in rows if row["method"] == method])
    limit_to_iou(axes)
    label_below(figure, grid, "K, labelled images per class")
    figure.supylabel("mIoU on the test split", fontsize=9)
    figure.legend(
        handles=[
            Line2D([], [], color=QUIET, marker="o", markersize=3, linestyle="", label="draw"),
            Line2D([], [], color=INK, marker="D", markersize=4, linestyle="", label="mean of K"),
            Line2D([], [], color=_LINE, label="fitted, with its 95 % band"),
            Patch(color="#ececec", label="beyond what was measured"),
        ],
        loc="outside lower center",
        ncols=max(2, int(figure.get_figwidth() / 1.9)),
    )
    return figure


def two_curves(
    studies: Mapping[str, Sequence[Mapping[str, Any]]], methods: Sequence[str]
) -> Figure:
    """A panel per method: mean over K with its interval in each of two studies.

    Args:
        studies: Rows of each study by its id: ``method``, ``shots``, ``mean``, ``ci95``.
        methods: Those to show.
    """
    figure, grid = panels(methods)
    looks: tuple[dict[str, Any], ...] = (
        {"color": _LINE, "marker": "o"},
        {"color": _OTHER, "marker": "s", "linestyle": "--"},
    )
    shots = sorted({row["shots"] for rows in studies.values() for row in rows})
    for method, axes in grid.items():
        for (study, rows), look in zip(studies.items(), looks, strict=True):
            own = [row for row in rows if row["method"] == method]
            error = [row["ci95"][1] - row["mean"] if row["ci95"] else 0.0 for row in own]
            axes.errorbar(
                [row["shots"] for row in own], [row["mean"] for row in own], error,
                label=short(study), markersize=4, capsize=2, linewidth=1.3, **look,
            )  # fmt: skip
        log_axis(axes, "x", shots)
    limit_to_iou(axes)
    label_below(figure, grid, "K, labelled images per class")
    figure.supylabel("mIoU on the test split", fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _curve(axes: Axes, curve: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    band = curve["band"]
    x = [point["shots"] for point in band]
    axes.axvspan(curve["shots"][-1], curve["reach"], color="#ececec", zorder=0, linewidth=0)
    low, high = zip(*(point["ci95"] for point in band), strict=True)
    axes.fill_between(x, low, high, color=_LINE, alpha=0.18, linewidth=0)
    axes.plot(x, [point["mean"] for point in band], color=_LINE, linewidth=1.6)
    for row in rows:
        axes.plot([row["shots"]] * len(row["draws"]), row["draws"], "o", color=QUIET, markersize=3)
        axes.plot(row["shots"], row["mean"], "D", color=INK, markersize=4)
    log_axis(axes, "x", [*curve["shots"], curve["reach"]])
