"""Tables for the terminal, narrow enough for 80 columns where they have to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from ssprompt_platform.report.compare import Comparison

Row = Mapping[str, Any]


def score_tables(rows: Sequence[Row]) -> list[Table]:
    """The same scores in tables of falling width; the last one fits 80 columns."""
    return [_by_method(rows), _by_row(rows, sides=True), _by_row(rows, sides=False)]


def draws_of_rows(rows: Sequence[Row]) -> int:
    """Draws that a complete row is over; 0 where nothing learns."""
    return max((len(row["draws"]) for row in rows if not row["deterministic"]), default=0)


def best_table(rows: Sequence[Row], searched: Mapping[str, Sequence[str]]) -> Table:
    """The chosen values of what was searched, a line for all K of a method that agree.

    Args:
        rows: Rows of :func:`~ssprompt_platform.report.tables.make_rows`.
        searched: Names of the searched hyperparameters of each method that has some.
    """
    table = _table("method", "K", setting="left")
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] in searched):
        alike: dict[str, list[str]] = {}
        for row in rows:
            if row["method"] == method:
                values = {n: row["best"][n] for n in searched[method] if n in row["best"]}
                setting = "  ".join(f"{name}={_short(value)}" for name, value in values.items())
                alike.setdefault(setting, []).append(str(row["shots"]))
        for number, (setting, shots) in enumerate(alike.items()):
            table.add_row("" if number else method, ", ".join(shots), setting)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Method, K, both means, and the difference on the same draws with its interval."""
    table = _table("method", "K", "first", "second", "difference", "95 % interval", "n", "p (Holm)")
    for row in comparison.rows:
        interval, p = row["ci95"], row["p_holm"]
        table.add_row(
            row["method"],
            str(row["shots"]),
            f"{row['first']:.3f}",
            f"{row['second']:.3f}",
            f"{row['difference']:+.3f}",
            f"[{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "no interval",
            str(row["n"]),
            "-" if p is None else f"{p:.3f}",
        )
    return table


def _by_method(rows: Sequence[Row]) -> Table:
    """A line for each method, a column for each K.

    Where the data tells things from stuff, two more columns give their means at the largest K.
    """
    shots = sorted({row["shots"] for row in rows})
    sides = _sides(rows)
    table = _table(
        "method",
        "trained",
        *(f"K = {k}" for k in shots),
        *(f"{side},\nK = {shots[-1]}" for side in sides),
    )
    draws = draws_of_rows(rows)
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = {row["shots"]: row for row in rows if row["method"] == method}
        trained = sorted({row["trainable_parameters"] for row in of_method.values()})
        largest = of_method.get(shots[-1])
        table.add_row(
            method,
            " to ".join(f"{n:,}" for n in dict.fromkeys((trained[0], trained[-1]))),
            *(" ".join(_score(of_method[k], draws)) if k in of_method else "-" for k in shots),
            *(_side(largest, side) for side in sides),
        )
    return table


def _by_row(rows: Sequence[Row], *, sides: bool) -> Table:
    """A line for each method and K; one for a method that learns nothing."""
    shown = _sides(rows) if sides else ()
    table = _table("method", "K", "mIoU", "95 % interval", "trained", *shown)
    draws = draws_of_rows(rows)
    seen: set[str] = set()
    for row in rows:
        first, fixed = row["method"] not in seen, row["deterministic"]
        seen.add(row["method"])
        if first or not fixed:
            table.add_row(
                row["method"] if first else "",
                "any" if fixed else str(row["shots"]),
                *_score(row, draws),
                f"{row['trainable_parameters']:,}",
                *(_side(row, side) for side in shown),
            )
    return table


def _table(first: str, *numbers: str, **texts: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    # names are never broken: a narrower table is chosen instead
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name, justify in texts.items():
        table.add_column(name, justify=justify)
    return table


def _sides(rows: Sequence[Row]) -> tuple[str, ...]:
    return ("things", "stuff") if rows and rows[0]["things"] else ()


def _side(row: Row | None, side: str) -> str:
    mean = row[side]["mean"] if row else None
    return "-" if mean is None else f"{mean:.3f}"


def _score(row: Row, draws: int) -> tuple[str, str]:
    """Mean, and its interval with the number of draws where some are missing."""
    if row["deterministic"]:
        return f"{row['mean']:.3f}", "fixed"
    interval = "no interval"
    if row["ci95"]:
        interval = f"[{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]"
    missing = "" if len(row["draws"]) == draws else f" n={len(row['draws'])}"
    return f"{row['mean']:.3f}", f"{interval}{missing}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
