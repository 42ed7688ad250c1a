"""What a study or a report says in the terminal: tables, and the sentences that matter."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ssprompt_platform.report.compare import Comparison
from ssprompt_platform.report.printed_tables import (
    best_table,
    comparison_table,
    draws_of_rows,
    score_tables,
)
from ssprompt_platform.report.statistics import telling_targets
from ssprompt_platform.sentences import say, tell

ZERO_SHOT = "zero_shot"

Row = Mapping[str, Any]

_WIDTH = 120
"""Columns of tables in a file or a pipe, which has no width of its own."""
_SELECTED = {
    "extra_shots": "on min(K, 4) more labelled images per class of the train pool",
    "cv": "within the K-shot support images, in folds",
    "holdout": "on the whole validation split",
}


def from_here(text: str) -> str:
    """The text with paths below the working folder relative to it."""
    here = re.escape(str(Path.cwd()))
    return re.sub(rf"(?<![\w.-]){here}/", "", text)


def print_results(
    console: Console, results: Mapping[str, Any], targets: Sequence[float] = ()
) -> None:
    """Scores, what they say and what went wrong, of a study whether finished or not.

    Args:
        console: Where to print.
        results: ``study``, ``rows``, ``statistics``, ``search``, ``failed`` and ``missing`` of a
            ``results.json``.
        targets: mIoU whose price in labels is asked for; none: the most telling ones.
    """
    study, rows, statistics = results["study"], results["rows"], results["statistics"]
    if rows:
        print_scores(console, study, rows)
    else:
        say(console, f"\n{study['id']} has no scores yet")
    print_sentences(console, "Remark", study["remarks"])
    statements = leading_statements(rows, statistics["methods"])
    print_sentences(console, "Differences on the same draws", statements)
    print_curves(console, statistics["curves"], rows, targets)
    print_chosen(console, study, rows)
    failures = failure_sentences(results["search"]["failed"], results["failed"])
    print_sentences(console, "Failed", failures)
    print_sentences(console, "Missing", results["missing"])


def print_scores(console: Console, study: Row, rows: Sequence[Row]) -> None:
    """The table of scores and what its numbers are."""
    draws = draws_of_rows(rows)
    over = f"mean over {draws} support draw{'' if draws == 1 else 's'} " if draws else ""
    interval = "with its 95 % confidence interval (Student's t)" if draws > 1 else ""
    fixed = "fixed: learns nothing" if any(row["deterministic"] for row in rows) else ""
    meaning = "; ".join(part for part in (f"{over}{interval}".strip(), fixed) if part)
    say(console)
    tell(
        console,
        f"mIoU of {study['model']} on {study['test_images']} test images of {study['data']}"
        f"{': ' if meaning else ''}{meaning}",
    )
    print_table(console, *score_tables(rows))


def print_table(console: Console, *tables: Table) -> None:
    """The first of some tables that fits, or the last."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    unlimited = console.options.update(max_width=10_000)
    fitting = [
        table
        for table in tables
        if console.measure(table, options=unlimited).maximum <= console.width
    ]
    console.print(fitting[0] if fitting else tables[-1])


def print_sentences(console: Console, title: str, sentences: Iterable[str]) -> None:
    """A heading and a line for each sentence; nothing where there is none."""
    for number, sentence in enumerate(sentences):
        if not number:
            say(console, f"\n{title}")
        tell(console, f"  {sentence}")


def print_chosen(console: Console, study: Row, rows: Sequence[Row]) -> None:
    """The chosen hyperparameters, and what they were chosen on."""
    searched = study["searched"]
    if not searched:
        return
    chosen = any(row["method"] in searched for row in rows)
    print_sentences(
        console,
        "Chosen hyperparameters" if chosen else "Selection",
        [
            f"Each setting is chosen {_SELECTED[study['selection']]}, never on test images; the "
            "report tells the whole protocol."
        ],
    )
    if chosen:
        print_table(console, best_table(rows, searched))


def print_curves(
    console: Console, curves: Mapping[str, Row], rows: Sequence[Row], targets: Sequence[float] = ()
) -> None:
    """How many labels a class an mIoU takes, by each method's learning curve, or why unknown.

    Args:
        console: Where to print.
        curves: ``statistics.curves`` of a ``results.json``.
        rows: Its rows.
        targets: Which mIoU; none: the most telling ones.
    """
    sentences = []
    for method, curve in curves.items():
        if "refused" in curve:
            sentences.append(f"{method}: {curve['refused']}")
            continue
        answers = {answer["target"]: answer["statement"] for answer in curve["answers"]}
        asked = targets or telling_targets(rows, list(answers))
        sentences += [f"{method}: {answers[target]}" for target in asked]
    print_sentences(console, "Labels that an mIoU takes, by the fitted learning curves", sentences)


def leading_statements(rows: Sequence[Row], comparisons: Sequence[Row]) -> list[str]:
    """The best method at each K against the runner-up and against ``zero_shot``, in words."""
    found = []
    for shots in sorted({row["shots"] for row in rows}):
        ranked = sorted(
            (row for row in rows if row["shots"] == shots), key=lambda row: -row["mean"]
        )
        best, others = ranked[0]["method"], [row["method"] for row in ranked[1:]]
        rivals = dict.fromkeys([*others[:1], *(m for m in others if m == ZERO_SHOT)])
        for rival in rivals:
            found += [
                row["statement"]
                for row in comparisons
                if row["shots"] == shots and {row["first"], row["second"]} == {best, rival}
            ]
    return found


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Differences of two studies, in numbers and words, and what else differs."""
    first, second = comparison.first, comparison.second
    say(console)
    tell(
        console,
        f"mIoU on {first.facts['test_images']} test images of {first.facts['data']}; difference: "
        f"{first.id} minus {second.id} on the same support draws",
    )
    print_table(console, comparison_table(comparison))
    remarks = dict.fromkeys([*first.remarks, *second.remarks])
    print_sentences(console, "Remark", remarks)
    print_sentences(console, "In words", told_differences(comparison.rows))
    changes = [f"{key}: {one} | {two}" for key, (one, two) in comparison.changes.items()]
    print_sentences(console, f"Settings that differ ({first.id} | {second.id})", changes)
    print_sentences(console, "Note", comparison.notes)


def told_differences(rows: Sequence[Row]) -> list[str]:
    """Statements of the differences of two studies that are told from chance, and how many not."""
    told = [row["statement"] for row in rows if row["significant"]]
    tests = sum(row["p"] is not None for row in rows)
    if tests == len(told):
        return told
    return [*told, f"{tests - len(told)} of {tests} tests tell no difference from chance"]


def failure_sentences(trials: Iterable[Row], fits: Iterable[Row]) -> list[str]:
    """Failed trials and fits with their causes, those of the same cause together."""
    causes: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        causes.setdefault(("trial", trial["cause"]), []).append(trial["trial"])
    for fit in fits:
        name = f"{fit['method']}-k{fit['shots']}-d{fit['draw']}"
        causes.setdefault(("final fit", fit["cause"]), []).append(name)
    return [
        f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({_listed(names)}): {cause}"
        for (what, cause), names in causes.items()
    ]


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
