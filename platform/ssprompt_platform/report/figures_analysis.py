"""Pictures of the analysis: IoU by class, learned weights, failure cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ssprompt_platform.report.figures import class_legend, save
from ssprompt_platform.report.figures_shown import prediction_panels
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import Place

_MEANS = ("mIoU", "mean")
_MOST_NUMBERED = 30
"""Columns up to which cells have room for their numbers."""


def class_heatmap(
    path: Place,
    rows: Sequence[Mapping[str, Any]],
    per_class: Sequence[Mapping[str, Any]],
    shots: int,
    title: str,
) -> None:
    """IoU of methods by class at one K, with the means of stuff and things, as a PNG.

    Args:
        path: Where to write.
        rows: Rows of :func:`~ssprompt_platform.report.tables.make_rows`.
        per_class: Rows of :func:`~ssprompt_platform.report.tables.make_per_class`.
        shots: The K to show.
        title: Above the picture.
    """
    of_method = {row["method"]: row for row in rows if row["shots"] == shots}
    blocks = _blocks(of_method, [row for row in per_class if row["shots"] == shots])
    total = sum(map(len, blocks.values()))
    numbered = total <= _MOST_NUMBERED
    figure = Figure(
        figsize=(min(24.0, 2.8 + (0.54 if numbered else 0.2) * total), 2.0 + 0.36 * len(of_method)),
        dpi=150,
        layout="constrained",
    )
    grid = figure.subplots(
        1, len(blocks), squeeze=False, sharey=True, width_ratios=[len(b) for b in blocks.values()]
    )[0]
    shown: Any = None
    for axes, (side, columns) in zip(grid, blocks.items(), strict=True):
        values = [[column[method]["mean"] for column in columns.values()] for method in of_method]
        shown = axes.imshow(
            np.array(values, np.float64), cmap="YlGnBu", vmin=0, vmax=1, aspect="auto"
        )
        _name_ticks(axes, list(columns), crowded=not numbered)
        axes.set_title(side, fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for x, (label, column) in enumerate(columns.items()):
            mean = label in _MEANS
            axes.get_xticklabels()[x].set_fontweight("bold" if mean else "normal")
            if numbered:
                for y, method in enumerate(of_method):
                    _number(axes, x, y, column[method], mean)
    grid[0].set_yticks(range(len(of_method)), list(of_method), fontsize=8)
    bar = figure.colorbar(shown, ax=grid, shrink=0.9, pad=0.01)
    bar.set_label("IoU", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=9)
    save(figure, path)


def _blocks(
    of_method: Mapping[str, Mapping[str, Any]], per_class: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Title of a block of columns -> label of a column -> the cell of each method."""
    blocks: dict[str, dict[str, dict[str, Any]]] = {"": {"mIoU": dict(of_method)}}
    for side, wanted in (("stuff", False), ("things", True), ("classes", None)):
        columns: dict[str, dict[str, Any]] = {}
        for row in per_class:
            if row["thing"] is wanted:
                columns.setdefault(row["class"], {})[row["method"]] = row
        if columns and side != "classes":
            columns["mean"] = {method: row[side] for method, row in of_method.items()}
        if columns:
            blocks[side] = columns
    return blocks


def _name_ticks(axes: Axes, names: Sequence[str], *, crowded: bool) -> None:
    axes.set_xticks(
        range(len(names)), names, rotation=90 if crowded else 40, fontsize=6 if crowded else 8,
        ha="right", va="center" if crowded else "top", rotation_mode="anchor",
    )  # fmt: skip


def _number(axes: Axes, x: int, y: int, cell: Mapping[str, Any], bold: bool) -> None:
    """Mean, and half the confidence interval below it."""
    if cell["mean"] is None:
        axes.text(x, y, "-", ha="center", va="center", fontsize=7)
        return
    style: dict[str, Any] = {"ha": "center", "color": "white" if cell["mean"] > 0.55 else "black"}
    weight = "bold" if bold else "normal"
    if cell["ci95"] is None:
        axes.text(x, y, f"{cell['mean']:.2f}", va="center", fontsize=7, fontweight=weight, **style)
        return
    half = cell["ci95"][1] - cell["mean"]
    axes.text(
        x, y - 0.17, f"{cell['mean']:.2f}", va="center", fontsize=7, fontweight=weight, **style
    )
    axes.text(x, y + 0.25, f"±{half:.2f}", va="center", fontsize=5, **style)


def weight_strips(path: Place, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Learned weights of every prompt and class over K and draws, as a PNG.

    Args:
        path: Where to write.
        rows: Rows of :func:`~ssprompt_platform.report.prompt_tables.weight_rows`.
        title: Above the picture.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    sides = [side for side in ("spatial", "semantic") if any(r["side"] == side for r in rows)]
    counts = {side: len({r["prompt"] for r in rows if r["side"] == side}) for side in sides}
    shots = sorted({row["shots"] for row in rows})
    places = np.linspace(0.0, 0.85, len(shots))
    colours = dict(zip(shots, matplotlib.colormaps["viridis"](places), strict=True))
    width = min(24.0, 1.5 + sum(max(2.4, 0.36 * count) for count in counts.values()))
    figure = Figure(figsize=(width, 1.3 + 1.75 * len(methods)), dpi=150, layout="constrained")
    grid = figure.subplots(
        len(methods), len(sides), squeeze=False, sharey=True, sharex="col",
        width_ratios=[min(max(6.5, count), _MOST_NUMBERED) for count in counts.values()],
    )  # fmt: skip
    for y, method in enumerate(methods):
        for x, side in enumerate(sides):
            own = [r for r in rows if r["method"] == method and r["side"] == side]
            _strips(grid[y, x], own, shots, colours)
        grid[y, 0].set_ylabel(f"{method}\nw", fontsize=8)
    for x, side in enumerate(sides):
        crowded = counts[side] > _MOST_NUMBERED
        grid[-1, x].set_xlim(-0.6, counts[side] - 0.4)
        if side == "spatial":
            grid[0, x].set_title("spatial prompts, row by row of the grid", fontsize=9)
            shown = range(0, counts[side], 5 if crowded else 1)
            grid[-1, x].set_xticks(shown, [str(n + 1) for n in shown], fontsize=8)
        else:
            grid[0, x].set_title("semantic prompts", fontsize=9)
            names = list(dict.fromkeys(r["prompt"] for r in rows if r["side"] == side))
            _name_ticks(grid[-1, x], names, crowded=crowded)
    handles = [Line2D([], [], color=colours[k], marker="o", ls="", label=f"K = {k}") for k in shots]
    handles.append(Line2D([], [], color="0.4", linestyle="--", label="start: half and half"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    meaning = "w = share of the learned embedding, 1 - w = share of the frozen encoder"
    if any(method.endswith("_weight_only") for method in methods):
        meaning += "\nweight_only: nothing is mixed in, the frozen prompt is scaled by 2 (1 - w)"
    figure.suptitle(f"{title}\n{meaning} (dots: draws, bars: their mean)", fontsize=9)
    save(figure, path)


def _strips(
    axes: Axes, rows: Sequence[Mapping[str, Any]], shots: Sequence[int], colours: Mapping[int, Any]
) -> None:
    axes.set_ylim(0, 1)
    axes.axhline(0.5, color="0.4", linestyle="--", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelsize=8)
    if not rows:
        axes.text(
            0.5, 0.75, "not learned: the frozen default", transform=axes.transAxes,
            ha="center", va="center", fontsize=8, color="0.4",
        )  # fmt: skip
    names = list(dict.fromkeys(row["prompt"] for row in rows))
    step = 0.8 / len(shots)
    for number, k in enumerate(shots):
        of_prompt: dict[float, list[float]] = {}
        for row in rows:
            if row["shots"] == k:
                x = names.index(row["prompt"]) + (number - (len(shots) - 1) / 2) * step
                of_prompt.setdefault(x, []).append(row["w"])
        if not of_prompt:
            continue
        if len(names) <= _MOST_NUMBERED:  # single draws of more prompts would only be noise
            points = np.array([(x, w) for x, draws in of_prompt.items() for w in draws])
            axes.plot(*points.T, ".", color=colours[k], markersize=3, alpha=0.6)
        at = np.array(list(of_prompt))
        means = [np.mean(draws) for draws in of_prompt.values()]
        axes.hlines(means, at - step / 2, at + step / 2, color=colours[k], linewidth=2)


def failure_cases(
    path: Place, failures: Sequence[ShownImage], class_names: Sequence[str], title: str
) -> None:
    """Image, ground truth, prediction and errors of some images, a row each, as a PNG."""
    heights = [2.1 * min(1.5, f.image.shape[0] / f.image.shape[1]) + 0.2 for f in failures]
    figure = Figure(figsize=(8.8, sum(heights) + 1.0), dpi=130, layout="constrained")
    grid = figure.subplots(len(failures), 4, squeeze=False, height_ratios=heights)
    for row, failure in zip(grid, failures, strict=True):
        panels = prediction_panels(failure, failure.image_id)
        for axes, (name, picture) in zip(row, panels.items(), strict=True):
            axes.imshow(picture)
            axes.set_title(name, fontsize=8)
            axes.set_axis_off()
    class_legend(
        figure,
        [m for failure in failures for m in (failure.truth, failure.predicted)],
        class_names,
        Patch(color="black", label="wrong"),
    )
    figure.suptitle(title, fontsize=9)
    save(figure, path)
