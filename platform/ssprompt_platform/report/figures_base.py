"""What all figures of the report share: one style, colours, small multiples, and two files each."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ssprompt_platform.storage import Place, write_whole

INK, QUIET = "#222222", "#767676"
WARNING = "#b3261e"
_LINES = ("#0072B2", "#E69F00", "#785E3C", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
"""Hues that people with any kind of colour vision tell apart."""
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    # names of classes and images may hold a dollar sign
    "text.parse_math": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # the same data give the same bytes, and look the same without any font
    "svg.hashsalt": "ssprompt",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Picture:
    """A figure on disk.

    Attributes:
        png: For slides and documents.
        svg: For print; the page has it too where ``vector`` says so.
        vector: Whether the figure is made of lines and text, not of pixels.
        width: Width in CSS pixels (1/96 inch) at which its text has the size it was made for.
        height: Height there.
    """

    png: Place
    svg: Place
    vector: bool
    width: int
    height: int


@dataclass(frozen=True)
class Album:
    """Draws figures into one folder, each with the study's name and its remarks in the title.

    Attributes:
        folder: Where PNG and SVG files are written.
        study: What the numbers belong to, in every title.
        remarks: Sentences that a reader of any figure has to know.
    """

    folder: Place
    study: str
    remarks: Sequence[str] = ()

    def draw(
        self, stem: str, title: str, make: Callable[[], Figure], *, vector: bool = True
    ) -> Picture:
        """Make a figure, title it, and write it as PNG and as SVG, each whole or not at all."""
        with matplotlib.rc_context(_STYLE):
            figure = make()
            FigureCanvasAgg(figure)
            figure.suptitle(self._title(title, figure), x=0.012, ha="left", fontsize=9.5)
            if figure.get_layout_engine() is not None:
                # laid out once: neither format moves anything afterwards
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
            width, height = figure.get_size_inches() * 96
            picture = Picture(
                self.folder / f"{stem}.png", self.folder / f"{stem}.svg", vector,
                round(width), round(height),
            )  # fmt: skip
            write_whole(picture.png, lambda path: figure.savefig(path, format="png", dpi=150))
            write_whole(
                picture.svg,
                lambda path: figure.savefig(path, format="svg", metadata={"Date": None}),
            )
        return picture

    def _title(self, title: str, figure: Figure) -> str:
        columns = max(30, round(figure.get_figwidth() * 13.5))
        lines = [f"{title} ({self.study})", *self.remarks]
        return "\n".join(part for line in lines for part in textwrap.wrap(line, columns))


def sheet(width: float, height: float) -> Figure:
    """An empty figure, in inches, that makes room for what is put on it."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(
    names: Sequence[str],
    *,
    width: float = 2.6,
    height: float = 2.3,
    columns: int = 3,
    extra: float = 0.9,
) -> tuple[Figure, dict[str, Axes]]:
    """Small multiples with a common y axis, one for each name, and its title."""
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    figure = sheet(max(5.2, columns * width), rows * height + extra)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name)
    return figure, dict(zip(names, grid, strict=False))


def label_below(figure: Figure, grid: Mapping[str, Axes], text: str) -> None:
    """Name the x axis of the panels that have none below them."""
    rows = {axes.get_subplotspec().rowspan.start for axes in grid.values()}  # type: ignore[union-attr]
    columns = math.ceil(len(grid) / len(rows))
    for axes in list(grid.values())[-columns:]:
        axes.set_xlabel(text)


def method_styles(methods: Sequence[str], deterministic: Set[str]) -> dict[str, dict[str, Any]]:
    """Line of each method: an ablation has its method's colour, what learns nothing is grey."""
    styles: dict[str, dict[str, Any]] = {}
    colours: dict[str, str] = {}
    for method in methods:
        if method in deterministic:
            rank = sum(known in deterministic for known in styles)
            styles[method] = {
                "color": ("black", "0.5")[rank % 2],
                "linestyle": ("--", ":", "-.")[rank % 3],
            }
            continue
        family = method.removesuffix("_embedding_only").removesuffix("_weight_only")
        colour = colours.setdefault(family, _LINES[len(colours) % len(_LINES)])
        kind = 0 if method == family else 1 if method.endswith("_embedding_only") else 2
        styles[method] = {
            "color": colour,
            "marker": ("o", "s", "^")[kind],
            "linestyle": ("-", ":", "--")[kind],
        }
    return styles


def shot_colours(shots: Sequence[int]) -> dict[int, str]:
    """A colour for each K, the dark end for the smallest."""
    ends = (0.0, 0.85) if len(shots) > 1 else (0.3, 0.3)
    places = np.linspace(*ends, len(shots))
    return {
        k: to_hex(matplotlib.colormaps["viridis"](place))
        for k, place in zip(sorted(shots), places, strict=True)
    }


def log_axis(axes: Axes, which: str, ticks: Sequence[float] | None = None) -> None:
    """A logarithmic x or y axis with plain numbers, at ``ticks`` if they are given."""
    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ticks is not None:
        axis.set_ticks(list(ticks))
        axis.set_ticks([], minor=True)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def limit_to_iou(axes: Axes) -> None:
    """No mIoU lies outside 0 to 1, even where an interval over very few draws does."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))


def short(text: str, longest: int = 26) -> str:
    """A name from the data in a figure: one line that leaves room for the rest."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    # a legend leaves out what begins with an underscore
    return f" {line}" if line.startswith("_") else line
