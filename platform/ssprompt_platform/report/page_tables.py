"""Tables of test scores: what their columns mean, and what may be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.report.page_blocks import Cell, Column, Table
from ssprompt_platform.report.page_cells import (
    MINUS,
    chance,
    count,
    number,
    span,
    tested,
    tested_columns,
    word,
)


def score_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every method and K with both intervals and the number of draws; the best of each K marked."""
    best = {k: max(r["mean"] for r in rows if r["shots"] == k) for k in {r["shots"] for r in rows}}
    sides = [side for side in ("things", "stuff") if any(row[side] for row in rows)]
    columns = [
        Column("method", numeric=False),
        Column("K", meaning="labelled images per class"),
        Column("labelled", meaning="distinct labelled images that this K costs, with selection"),
        Column("mIoU", meaning="mean over draws, test split"),
        Column("95 % t-interval", meaning="Student's t over draws"),
        Column("95 % bootstrap", meaning="bootstrap over draws"),
        Column("n", meaning="support draws"),
        *(Column(side, meaning=f"mean IoU over {side}") for side in sides),
        Column("trained", meaning="numbers that are trained"),
    ]
    made, seen = [], set()
    for row in rows:
        fixed = row["deterministic"]
        if fixed and row["method"] in seen:
            continue
        seen.add(row["method"])
        top = any(row["mean"] == best[k] for k in ([*best] if fixed else [row["shots"]]))
        made.append(
            [
                word(row["method"]),
                Cell("any", None, "quiet") if fixed else count(row["shots"]),
                count(0 if fixed else row["labelled"]),
                number(row["mean"], look="best" if top else ""),
                Cell("fixed", None, "quiet") if fixed else span(row["ci95"]),
                Cell("fixed", None, "quiet") if fixed else span(row["bootstrap95"]),
                count(len(row["draws"])),
                *(number(row[side]["mean"] if row[side] else None) for side in sides),
                count(row["trainable_parameters"]),
            ]
        )
    caption = (
        "mIoU on the test split. Each of the n draws is another support set; the intervals are of "
        "their mean. Decide by the t-interval: with few draws the bootstrap is too narrow. fixed: "
        "sees no support image, so one score and no interval. Bold: highest mean of its K."
    )
    return Table(caption, columns, made)


def comparison_rows(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """Paired differences between methods with p before and after Holm's correction."""
    columns = [
        Column("K"),
        Column("first", numeric=False),
        Column("second", numeric=False),
        *tested_columns(
            Column(f"first {MINUS} second", meaning="mean difference in mIoU on the same draws"),
            Column("n", meaning="draws that both have"),
        ),
        Column("verdict", numeric=False),
    ]
    made = [
        [
            count(c["shots"]),
            word(c["first"]),
            word(c["second"]),
            *tested(c),
            _verdict(c),
        ]
        for c in comparisons
    ]
    tests = comparisons[0]["family_size"]
    caption = (
        "Paired differences on the same support draws, with t-intervals of each comparison alone. "
        "One is called better where p is below 0.05 after Holm's correction for all "
        f"{tests} tests of this table."
    )
    return Table(caption, columns, made)


def _verdict(comparison: Mapping[str, Any]) -> Cell:
    if comparison["p"] is None:
        return Cell("no test", "no test", "quiet", comparison["statement"])
    if not comparison["significant"]:
        return word("not told apart", "quiet")
    return word(f"{comparison['first' if comparison['difference'] > 0 else 'second']} is better")


def next_rows(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    """What the step from each K to the next brings, and per labelled image."""
    columns = [
        Column("method", numeric=False),
        Column("K to the next", numeric=False),
        Column("gain in mIoU", meaning="mean over the same, nested draws"),
        Column("95 % interval"),
        Column("more labels", meaning="further distinct labelled images"),
        Column("gain per 10 labels", meaning="mIoU per ten further labelled images"),
        Column("p (Holm)", meaning="corrected for all tests of the table"),
        Column("verdict", numeric=False),
    ]
    made = []
    for c in comparisons:
        gain = c["gain_per_label"]
        made.append(
            [
                word(c["method"]),
                Cell(f"{c['shots']}\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}{c['next']}", c["shots"]),
                number(c["difference"], sign=True),
                span(c["ci95"], sign=True),
                count(c["labels_more"]),
                number(None if gain is None else 10 * gain, 4, sign=True),
                chance(c["p_holm"], "best" if c["significant"] else ""),
                _worth(c),
            ]
        )
    tests = comparisons[0]["family_size"]
    caption = (
        "What the labels of the next K add, for each method against itself on the same draws, "
        f"whose support images are nested; Holm's correction for all {tests} tests of this table. "
        "Labels include those that hyperparameters are selected on."
    )
    return Table(caption, columns, made)


def _worth(comparison: Mapping[str, Any]) -> Cell:
    if comparison["p"] is None:
        return Cell("no test", "no test", "quiet", comparison["statement"])
    if not comparison["significant"]:
        return word("no gain shown", "quiet")
    return word("gain" if comparison["difference"] > 0 else "loss")


def label_rows(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """How many labels each target takes by each method's fitted curve, or why that is not said."""
    targets = [answer["target"] for answer in next(iter(answers.values()))]
    columns = [Column("mIoU", meaning="mean over draws, test split")]
    columns += [Column(method, meaning="smallest K that reaches it") for method in answers]
    made = [
        [number(target, 2), *(_answer(own[n]) for own in answers.values())]
        for n, target in enumerate(targets)
    ]
    caption = (
        "Labelled images per class (K) at which a method's fitted curve reaches an mIoU; below it "
        "the 95 % interval of that K, and the distinct labelled images that it takes. Where there "
        f"is no number: {'; '.join(f'“{said}”, {why}' for said, why in _REFUSALS.values())}."
    )
    return Table(caption, columns, made)


_REFUSALS = {
    "never": ("levels off", "the fitted curve stays below it at any K"),
    "flat": ("no growth", "the scores do not grow with K"),
    "beyond_reach": ("beyond reach", "it would take more than twice the largest K measured"),
}
"""Status of an answer without a K -> what the table says, and what that means."""


def _answer(answer: Mapping[str, Any]) -> Cell:
    if answer["shots"] is None:
        return Cell(_REFUSALS[answer["status"]][0], None, "quiet")
    notes = []
    if answer["ci95"]:
        low, high = answer["ci95"]
        notes.append(f"{low} to {'beyond reach' if high is None else high}")
    if answer["labelled"] is not None:
        notes.append(f"{answer['labelled']:,.0f} images")
    text = f"{'≤ ' if answer['status'] == 'met' else ''}{answer['shots']}"
    return Cell(text, answer["shots"], "", ", ".join(notes))
