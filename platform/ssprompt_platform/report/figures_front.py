"""The price list of labels as a figure: labelled images against mIoU on the selection images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssprompt_platform.report.figures_base import (
    INK,
    limit_to_iou,
    log_axis,
    method_styles,
    sheet,
)

_MOST_NUMBERED = 20


def price_list(
    front: Sequence[Mapping[str, Any]], methods: Sequence[str], fixed: Set[str]
) -> Figure:
    """Every setting as a point, the front as a line; its points are numbered as in the table.

    Args:
        front: ``method``, ``labelled``, ``value``, ``on_front``, by rising ``labelled``.
        methods: All methods of the study, so that each keeps its colour.
        fixed: Those of them that learn nothing.
    """
    styles = method_styles(methods, fixed)
    figure = sheet(7.0, 4.2)
    axes = figure.subplots()
    shown = list(dict.fromkeys(point["method"] for point in front))
    for method in shown:
        own = [p for p in front if p["method"] == method]
        look = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        for on_front in (False, True):
            some = [p for p in own if p["on_front"] is on_front]
            axes.plot(
                [p["labelled"] for p in some], [p["value"] for p in some], linestyle="",
                markersize=7 if on_front else 4.5, alpha=1 if on_front else 0.4,
                zorder=3 if on_front else 2, **look,
            )  # fmt: skip
    best = [p for p in front if p["on_front"]]
    axes.step([p["labelled"] for p in best], [p["value"] for p in best], where="post",
              color=INK, linewidth=1.1, zorder=1)  # fmt: skip
    for number, point in enumerate(best[:_MOST_NUMBERED], start=1):
        axes.annotate(
            str(number), (point["labelled"], point["value"]), xytext=(-3, 6),
            textcoords="offset points", ha="right", fontsize=8,
        )  # fmt: skip
    log_axis(axes, "x", sorted({p["labelled"] for p in front}))
    axes.margins(x=0.08, y=0.1)
    limit_to_iou(axes)
    axes.set_xlabel("labelled images, for fitting and for selection (logarithmic)")
    axes.set_ylabel("mIoU on the selection images")
    handles = [
        Line2D([], [], color=styles[m]["color"], marker=styles[m]["marker"], linestyle="", label=m)
        for m in shown
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1.1, label="front"))
    figure.legend(handles=handles, loc="outside right center")
    return figure
