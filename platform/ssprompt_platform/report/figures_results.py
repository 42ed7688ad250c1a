"""Figures of what the test split says: differences between methods, and IoU by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ssprompt_platform.report.figures_base import INK, QUIET, label_below, panels, sheet, short

_MOST_PAIRS = 12
MOST_CLASSES = 40
"""Bars of classes in a panel; of more, the best and the worst are shown."""
_BETTER, _WORSE = "#0072B2", "#D55E00"
_ALL, STUFF, THING = "#444444", "#9c8f80", "#009E73"


def shown_pairs(
    comparisons: Sequence[Mapping[str, Any]], reference: str
) -> list[Mapping[str, Any]]:
    """Comparisons that a figure has room for: all pairs, or those with the reference method.

    Those with the reference are turned round where needed: it always comes first.
    """
    pairs = {(c["first"], c["second"]) for c in comparisons}
    if len(pairs) <= _MOST_PAIRS:
        return list(comparisons)
    shown = []
    for c in comparisons:
        if c["first"] == reference:
            shown.append(c)
        elif c["second"] == reference:
            turned = None if c["ci95"] is None else [-c["ci95"][1], -c["ci95"][0]]
            difference = None if c["difference"] is None else -c["difference"]
            shown.append(
                {**c, "first": reference, "second": c["first"], "difference": difference,
                 "ci95": turned}
            )  # fmt: skip
    return shown


def paired_differences(
    comparisons: Sequence[Mapping[str, Any]],
    verdicts: tuple[str, str] = ("first one better", "second one better"),
) -> Figure:
    """Mean difference of each pair with its interval, a panel per K; filled where significant.

    Args:
        comparisons: ``label`` (or ``first`` and ``second``, whose difference it is), ``shots``,
            ``difference``, ``ci95``, ``significant``.
        verdicts: What a difference above and one below zero mean.
    """
    shots = sorted({c["shots"] for c in comparisons})
    labels = list(dict.fromkeys(map(_label, comparisons)))
    figure = sheet(max(5.2, 2.0 + 1.9 * len(shots)), 1.6 + 0.26 * len(labels))
    grid = figure.subplots(1, len(shots), squeeze=False, sharey=True, sharex=True)[0]
    for axes, k in zip(grid, shots, strict=True):
        axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_title(f"K = {k}")
        for c in comparisons:
            if c["shots"] == k:
                _difference(axes, labels.index(_label(c)), c)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("difference in mIoU")
    grid[0].set_yticks(range(len(labels)), labels)
    grid[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.legend(
        handles=[
            Line2D([], [], color=_BETTER, marker="o", label=short(verdicts[0])),
            Line2D([], [], color=_WORSE, marker="o", label=short(verdicts[1])),
            Line2D([], [], color=QUIET, marker="o", mfc="white", label="not told apart"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    return figure


def _label(comparison: Mapping[str, Any]) -> str:
    pair = f"{comparison.get('first')} \N{MINUS SIGN} {comparison.get('second')}"
    label: str = comparison.get("label", pair)
    return label


def _difference(axes: Axes, y: int, comparison: Mapping[str, Any]) -> None:
    value, interval = comparison["difference"], comparison["ci95"]
    if value is None:
        return
    significant = comparison["significant"]
    colour = QUIET if not significant else _BETTER if value > 0 else _WORSE
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(value, y, "o", color=colour, markersize=5, mfc=colour if significant else "white")


@dataclass(frozen=True)
class _Bar:
    """IoU of one class, or the mean over some, as a bar."""

    mean: float | None
    ci95: Sequence[float] | None
    colour: str


_Name = tuple[int, str]
"""Rank of a block of bars (means, things, stuff) and the name beside a bar."""


def class_bars(
    rows: Sequence[Mapping[str, Any]], per_class: Sequence[Mapping[str, Any]], shots: int
) -> Figure:
    """IoU by class at one K, a panel per method, with the means of things and of stuff on top."""
    per_class = [cell for cell in per_class if cell["shots"] == shots]
    of_method = {
        row["method"]: _bars(row, [c for c in per_class if c["method"] == row["method"]])
        for row in rows
        if row["shots"] == shots
    }
    names = _order(of_method)
    figure, grid = panels(list(of_method), width=2.5, height=0.7 + 0.19 * len(names))
    for method, axes in grid.items():
        for y, name in enumerate(names):
            _draw_bar(axes, y, of_method[method].get(name))
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    first = next(iter(grid.values()))
    first.set_yticks(range(len(names)), [short(name) for _, name in names])
    first.set_ylim(len(names) - 0.5, -0.5)
    for axes in grid.values():
        for label, (block, _) in zip(axes.get_yticklabels(), names, strict=False):
            label.set_fontweight("normal" if block else "bold")
    label_below(figure, grid, "IoU on the test split")
    if any(cell["thing"] is not None for cell in per_class):
        handles = [Patch(color=THING, label="things (foreground)")]
        handles += [Patch(color=STUFF, label="stuff (background)")]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _bars(row: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> dict[_Name, _Bar]:
    bars: dict[_Name, _Bar] = {(0, "all classes"): _Bar(row["mean"], row["ci95"], _ALL)}
    for side, colour in (("things", THING), ("stuff", STUFF)):
        if row[side]:
            bars[0, f"all {side}"] = _Bar(row[side]["mean"], row[side]["ci95"], colour)
    for cell in classes:
        block, colour = {True: (1, THING), False: (2, STUFF), None: (1, _BETTER)}[cell["thing"]]
        bars[block, cell["class"]] = _Bar(cell["mean"], cell["ci95"], colour)
    return bars


def _order(of_method: Mapping[str, Mapping[_Name, _Bar]]) -> list[_Name]:
    """Means, then things, then stuff, each from the best class to the worst over the methods.

    Of very many classes the best and the worst are kept.
    """

    def score(name: _Name) -> float:
        known = [bars[name].mean for bars in of_method.values() if name in bars]
        return sum(mean or 0.0 for mean in known) / len(known)

    names = list(dict.fromkeys(name for bars in of_method.values() for name in bars))
    means = [name for name in names if name[0] == 0]
    classes = sorted((name for name in names if name[0] > 0), key=score, reverse=True)
    if len(classes) > MOST_CLASSES:
        classes = classes[: MOST_CLASSES // 2] + classes[-MOST_CLASSES // 2 :]
    return means + sorted(classes, key=lambda name: name[0])


def _draw_bar(axes: Axes, y: int, bar: _Bar | None) -> None:
    if bar is None or bar.mean is None:
        axes.text(0.01, y, "in no test label", va="center", fontsize=7, color=QUIET)
        return
    axes.barh(y, bar.mean, height=0.72, color=bar.colour)
    if bar.ci95 is not None:
        axes.plot([min(max(end, 0.0), 1.0) for end in bar.ci95], [y, y], color=INK, linewidth=1)
