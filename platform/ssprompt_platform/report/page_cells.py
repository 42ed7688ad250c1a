"""Cells of the page's tables: how numbers read, and what a column sorts them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.report.page_blocks import Cell, Column

MINUS = "\N{MINUS SIGN}"
NOTHING = Cell("\N{EN DASH}", None, "quiet")
"""Where there is no number."""


def number(value: float | None, digits: int = 3, look: str = "", sign: bool = False) -> Cell:
    """A number with fixed digits; an en dash where there is none."""
    if value is None:
        return NOTHING
    return Cell(f"{value:{'+' if sign else ''}.{digits}f}".replace("-", MINUS), value, look)


def count(value: float | None) -> Cell:
    """A number of things, with a decimal only where a mean has one."""
    if value is None:
        return NOTHING
    return Cell(f"{value:,.0f}" if value == round(value) else f"{value:,.1f}", value)


def word(text: str, look: str = "") -> Cell:
    """Text that sorts as it reads."""
    return Cell(text, text, look)


def span(interval: Sequence[float] | None, digits: int = 3, sign: bool = False) -> Cell:
    """An interval, sorted by its lower end."""
    if interval is None:
        return NOTHING
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"[{interval[0]:{form}}, {interval[1]:{form}}]"
    return Cell(text.replace("-", MINUS), interval[0])


def chance(p: float | None, look: str = "") -> Cell:
    """A p value."""
    if p is None:
        return NOTHING
    return Cell("< 0.0001" if p < 1e-4 else f"{p:.4f}", p, look)


def tested_columns(difference: Column, n: Column) -> list[Column]:
    """Titles of :func:`tested`, with what the difference and the number of pairs mean."""
    return [
        difference,
        Column("95 % interval"),
        n,
        Column("p", meaning="paired t-test"),
        Column("p (Holm)", meaning="corrected for all tests of the table"),
    ]


def tested(row: Mapping[str, Any]) -> list[Cell]:
    """A paired difference: mean, interval, pairs, and p before and after Holm's correction."""
    return [
        number(row["difference"], sign=True),
        span(row["ci95"], sign=True),
        count(row["n"]),
        chance(row["p"]),
        chance(row["p_holm"], "best" if row["significant"] else ""),
    ]


def setting(values: Mapping[str, Any]) -> str:
    """Hyperparameters in a line."""
    return ", ".join(f"{name} {plain(value)}" for name, value in values.items())


def plain(value: Any) -> str:
    """A value of the configuration as a person writes it."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if value is None:
        return NOTHING.text
    return str(value)
