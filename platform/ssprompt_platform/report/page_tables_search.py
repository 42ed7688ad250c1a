"""Tables of the search: trials, what they cost, and the price list of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.report.page_blocks import Cell, Column, Table
from ssprompt_platform.report.page_cells import count, number, setting, word
from ssprompt_platform.search.records import TrialRecord


def trial_rows(trials: Sequence[TrialRecord]) -> Table:
    """Every trial of the search; failed ones with their cause."""
    columns = [
        Column("trial", numeric=False),
        Column("method", numeric=False),
        Column("K"),
        Column("state", numeric=False),
        Column("mIoU", meaning="on the selection images"),
        Column("seconds"),
        Column("setting", numeric=False),
    ]
    looks = {"failed": "warn", "pruned": "quiet", "duplicate": "quiet", "running": "quiet"}
    made = []
    for t in trials:
        note = t.cause or ""
        if t.duplicate_of is not None:
            note = f"equal to trial {t.duplicate_of}, not run again"
        elif t.state == "running":
            note = "running, or cut off when its process was"
        made.append(
            [
                Cell(t.key, t.key),
                word(t.method),
                count(t.shots),
                Cell(t.state, t.state, looks.get(t.state, ""), note),
                number(t.value, look="quiet" if t.state == "pruned" else ""),
                number(t.seconds, 1),
                word(setting(t.params)),
            ]
        )
    caption = (
        "Every trial of the search. mIoU is measured on the selection images, never on the test "
        "split; of a pruned trial it is the last value that it was judged by."
    )
    return Table(caption, columns, made)


def cost_rows(trials: Sequence[TrialRecord]) -> Table:
    """Seconds of trials by method and K."""
    columns = [
        Column("method", numeric=False),
        Column("K"),
        Column("trials run"),
        Column("median seconds"),
        Column("most"),
        Column("all together"),
    ]
    made = []
    for group in dict.fromkeys((t.method, t.shots) for t in trials):
        own = sorted(t.seconds for t in trials if (t.method, t.shots) == group and t.seconds)
        if own:
            middle = (own[(len(own) - 1) // 2] + own[len(own) // 2]) / 2
            made.append(
                [
                    word(group[0]), count(group[1]), count(len(own)), number(middle, 1),
                    number(own[-1], 1), number(sum(own), 1),
                ]
            )  # fmt: skip
    caption = "Time of search trials in a worker, in seconds, over all parts of a trial."
    return Table(caption, columns, made)


def front_rows(front: Sequence[Mapping[str, Any]]) -> Table:
    """The front's points, cheapest first."""
    columns = [
        Column("no."),
        Column("labelled images"),
        Column("mIoU", meaning="on the selection images"),
        Column("method", numeric=False),
        Column("K"),
        Column("setting", numeric=False),
    ]
    made = [
        [
            count(n),
            count(point["labelled"]),
            number(point["value"]),
            word(point["method"]),
            count(point["shots"]),
            word(setting(point["params"])),
        ]
        for n, point in enumerate((p for p in front if p["on_front"]), start=1)
    ]
    caption = (
        "Price list of labels: nothing that was tried is both cheaper and better than a line of "
        "this list. The scores are those of the search, on selection images, and were selected "
        "by them: they flatter. The test scores stand in the table of scores."
    )
    return Table(caption, columns, made)
