"""Numbers as the statistics' sentences write them: mIoU and p without a leading zero."""

from __future__ import annotations

from collections.abc import Sequence


def share(value: float, digits: int = 3) -> str:
    """A number between -1 and 1 such as ``.120`` or ``-.080``; ``.000`` never has a sign."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def span(interval: Sequence[float], digits: int = 3) -> str:
    """An interval such as ``[.080, .160]``."""
    return f"[{share(interval[0], digits)}, {share(interval[1], digits)}]"


def chance(p: float) -> str:
    """A p value such as ``p = .012`` or ``p < .001``."""
    return "p < .001" if p < 0.001 else f"p = {share(p)}"


def count(number: int, thing: str) -> str:
    """A number and its noun, in the plural where there is not one."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
