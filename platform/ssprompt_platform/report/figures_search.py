"""Figures of the search: its history, what hyperparameters did, and what trials cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssprompt_platform.report.figures_base import (
    INK,
    QUIET,
    WARNING,
    label_below,
    limit_to_iou,
    log_axis,
    panels,
    sheet,
    short,
    shot_colours,
)
from ssprompt_platform.search.records import TrialRecord

_SELECTED = "mIoU on the selection images"


def finished_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that were run to their end and scored."""
    return [t for t in trials if t.state == "complete" and t.value is not None]


def best_trials(trials: Sequence[TrialRecord]) -> dict[tuple[str, int], TrialRecord]:
    """The finished trial of highest score of each method and K."""
    best: dict[tuple[str, int], TrialRecord] = {}
    for trial in finished_trials(trials):
        known = best.get((trial.method, trial.shots))
        if known is None or (trial.value or 0.0) > (known.value or 0.0):
            best[trial.method, trial.shots] = trial
    return best


def history(trials: Sequence[TrialRecord]) -> Figure:
    """Score of every trial in order, and the best so far, a panel per method, a colour per K."""
    methods, colours = _methods(trials), _colours(trials)
    figure, grid = panels(methods)
    for method, axes in grid.items():
        for k, colour in colours.items():
            own = [t for t in trials if (t.method, t.shots) == (method, k)]
            _history(axes, own, colour)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        _failures(axes, [t for t in trials if t.method == method and t.state == "failed"])
    limit_to_iou(axes)
    label_below(figure, grid, "number of the trial")
    figure.supylabel(_SELECTED, fontsize=9)
    styles: dict[str, dict[str, Any]] = {
        "complete": {"marker": "o"},
        "pruned (last value)": {"marker": "x"},
        "equal to an earlier one, not run": {"marker": "o", "mfc": "white"},
        "failed": {"marker": "v", "color": WARNING},
    }
    present = {t.state for t in trials}
    handles = [
        Line2D([], [], **{"color": QUIET, "linestyle": "", "label": label, **style})
        for label, style in styles.items()
        if (label.startswith("equal") and "duplicate" in present) or label.split()[0] in present
    ]
    handles += [Line2D([], [], color=QUIET, drawstyle="steps-post", label="best so far")]
    _legend(figure, colours, handles)
    return figure


def _history(axes: Axes, own: Sequence[TrialRecord], colour: str) -> None:
    scored = finished_trials(own)
    if scored:
        values = np.maximum.accumulate([t.value or 0.0 for t in scored])
        last = max(t.number for t in own)
        axes.step(
            [*(t.number for t in scored), last], [*values, values[-1]],
            where="post", color=colour, linewidth=1.2, alpha=0.8,
        )  # fmt: skip
    marks = {"complete": ("o", colour), "pruned": ("x", colour), "duplicate": ("o", "white")}
    for state, (marker, face) in marks.items():
        some = [t for t in own if t.state == state and t.value is not None]
        if some:
            axes.plot(
                [t.number for t in some], [t.value or 0.0 for t in some],
                marker, color=colour, mfc=face, markersize=4.5,
            )  # fmt: skip


def _failures(axes: Axes, failed: Sequence[TrialRecord]) -> None:
    """A failed trial has no score: marks at the lower edge."""
    if not failed:
        return  # an empty line that is not clipped has no extent, and nothing could be laid out
    axes.plot(
        [t.number for t in failed], [0.03] * len(failed), "v", color=WARNING, markersize=5,
        transform=axes.get_xaxis_transform(), clip_on=False,
    )  # fmt: skip


def varied(trials: Sequence[TrialRecord]) -> list[str]:
    """Hyperparameters of which finished trials had more than one value: N first, then rates."""
    values: dict[str, set[Any]] = {}
    for trial in finished_trials(trials):
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    names = [name for name, found in values.items() if len(found) > 1]
    return sorted(names, key=lambda name: (name != "num_prompts", not name.startswith("lr_")))


def effect(trials: Sequence[TrialRecord], name: str, *, log: bool) -> Figure:
    """Score of finished trials over one hyperparameter, a panel per method, a colour per K.

    Args:
        trials: Of the whole search.
        name: The hyperparameter.
        log: Whether its axis is logarithmic, where it is a number.
    """
    trials = [t for t in finished_trials(trials) if name in t.params]
    colours, best = _colours(trials), best_trials(trials)
    values = {t.params[name] for t in trials}
    listed = len(values) <= 6 and all(isinstance(v, int | str) for v in values)
    places = {v: n for n, v in enumerate(sorted(values, key=_by_size))} if listed else {}
    figure, grid = panels(_methods(trials))
    for method, axes in grid.items():
        for rank, (k, colour) in enumerate(colours.items()):
            own = [t for t in trials if (t.method, t.shots) == (method, k)]
            # beside each other, or one K covers the next
            shift = 0.5 * ((rank + 0.5) / len(colours) - 0.5)
            x = [places[t.params[name]] + shift if listed else t.params[name] for t in own]
            axes.plot(
                x, [t.value or 0.0 for t in own], "o", color=colour, markersize=4.5, alpha=0.75
            )
            if listed:
                _means(axes, own, name, places, shift, colour)
            if (method, k) in best:
                chosen = own.index(best[method, k])
                axes.plot(
                    x[chosen], own[chosen].value or 0.0, "o", mfc="none", color=INK, markersize=8
                )
        if listed:
            axes.set_xticks(list(places.values()), [short(str(v), 14) for v in places])
            axes.set_xlim(-0.5, len(places) - 0.5)
        elif log:
            log_axis(axes, "x", _ticks(values))
    limit_to_iou(axes)
    label_below(figure, grid, name)
    figure.supylabel(_SELECTED, fontsize=9)
    handles = [Line2D([], [], color=INK, marker="o", mfc="none", linestyle="", label="best of K")]
    if listed:
        handles.append(Line2D([], [], color=QUIET, linewidth=2, label="mean"))
    _legend(figure, colours, handles)
    return figure


def _means(
    axes: Axes, own: Sequence[TrialRecord], name: str, places: Mapping[Any, int], shift: float,
    colour: str,
) -> None:  # fmt: skip
    for value, place in places.items():
        scores = [t.value for t in own if t.params[name] == value and t.value is not None]
        if len(scores) > 1:
            x = place + shift
            axes.plot([x - 0.07, x + 0.07], [np.mean(scores)] * 2, color=colour, linewidth=2)


def _by_size(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _ticks(values: set[Any]) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten, around all values; few enough to read."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return [tick for tick in ticks if 0.8 * low <= tick <= 1.25 * high]


def importance(shares: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> Figure:
    """Share of the scores' variance that each hyperparameter explains, a row per search.

    Args:
        shares: Search -> hyperparameter -> share, 0 to 1.
        names: Columns; a search may lack some.
    """
    table = np.array([[own.get(name, np.nan) for name in names] for own in shares.values()])
    figure = sheet(max(5.2, 2.0 + 0.95 * len(names)), 1.8 + 0.3 * len(shares))
    axes = figure.subplots()
    shown = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(shares)), list(shares))
    for (y, x), share in np.ndenumerate(table):
        text, colour = ("\N{EN DASH}", QUIET) if np.isnan(share) else (f"{share:.2f}", INK)
        axes.text(x, y, text, ha="center", va="center", fontsize=8,
                  color="white" if share > 0.6 else colour)  # fmt: skip
    figure.colorbar(shown, ax=axes, pad=0.02).outline.set_visible(False)
    return figure


def cost(trials: Sequence[TrialRecord]) -> Figure:
    """Seconds of every trial that ran, by method, a colour per K; the bar is the median."""
    trials = [t for t in trials if t.seconds and t.state != "running"]
    methods, colours = _methods(trials), _colours(trials)
    figure = sheet(6.6, 1.9 + 0.5 * len(methods))
    axes = figure.subplots()
    for y, method in enumerate(methods):
        for rank, (k, colour) in enumerate(colours.items()):
            own = [t.seconds or 0.0 for t in trials if (t.method, t.shots) == (method, k)]
            place = y + 0.7 * ((rank + 0.5) / len(colours) - 0.5)
            axes.plot(own, [place] * len(own), "o", color=colour, markersize=3.5, alpha=0.5)
            if own:
                axes.plot(np.median(own), place, "|", color=colour, markersize=11, mew=2.2)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    log_axis(axes, "x", _ticks({t.seconds for t in trials}))
    axes.set_xlabel("seconds in a worker")
    _legend(figure, colours, [Line2D([], [], color=QUIET, marker="|", linestyle="", mew=2,
                                     markersize=9, label="median")])  # fmt: skip
    return figure


def _methods(trials: Sequence[TrialRecord]) -> list[str]:
    return list(dict.fromkeys(t.method for t in trials))


def _colours(trials: Sequence[TrialRecord]) -> dict[int, str]:
    return shot_colours(sorted({t.shots for t in trials}))


def _legend(figure: Figure, colours: Mapping[int, str], others: Sequence[Line2D]) -> None:
    shots = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=f"K = {k}")
        for k, colour in colours.items()
    ]
    handles = [*shots, *others]
    rows = math.ceil(len(handles) / max(1, int(figure.get_figwidth() / 1.3)))
    # as many in each row: the last one would be all but empty
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
