"""What a study or a report says in the terminal: tables, and the sentences that matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ssprompt_platform.report.compare import Comparison
from ssprompt_platform.report.statistics import telling_targets
from ssprompt_platform.report.tables import best_table, score_table

ZERO_SHOT = "zero_shot"

Row = Mapping[str, Any]


def say(console: Console, text: str = "") -> None:
    """Print a line as it is: no markup, no wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_scores(console: Console, study: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The table of scores with its remarks, and the chosen hyperparameters."""
    if not console.is_terminal:
        console.width = 240  # a file or a pipe has no width: tables take what they need
    say(
        console,
        f"\nmIoU of {study['model']} on {study['test_images']} test images of {study['data']}: "
        "mean [95 % confidence interval, Student's t] over n support draws; fixed: sees no "
        "support image",
    )
    console.print(score_table(rows))
    print_sentences(console, "Remark", study["remarks"])
    if any(row["best"] for row in rows):
        say(console, "\nChosen hyperparameters")
        console.print(best_table(rows))


def print_sentences(console: Console, title: str, sentences: Iterable[str]) -> None:
    """A heading and a line for each sentence; nothing where there is none."""
    for number, sentence in enumerate(sentences):
        if not number:
            say(console, f"\n{title}")
        say(console, f"  {sentence}")


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


def print_results(console: Console, results: Mapping[str, Any]) -> None:
    """Scores, what they say and what went wrong, of a study whether finished or not.

    Args:
        console: Where to print.
        results: ``study``, ``rows``, ``statistics``, ``search`` and ``failed`` of a
            ``results.json``.
    """
    study, rows = results["study"], results["rows"]
    if rows:
        print_scores(console, study, rows)
    else:
        say(console, f"\n{study['id']} has no scores yet")
        print_sentences(console, "Remark", study["remarks"])
    statements = leading_statements(rows, results["statistics"]["methods"])
    print_sentences(console, "Differences on the same draws", statements)
    failures = failure_sentences(results["search"]["failed"], results["failed"])
    print_sentences(console, "Failed", failures)
    print_sentences(console, "Missing", results["missing"])


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Differences of two studies, in numbers and words, and what else differs."""
    first, second = comparison.first, comparison.second
    if not console.is_terminal:
        console.width = 240
    say(
        console,
        f"\nmIoU on {first.facts['test_images']} test images of {first.facts['data']}; difference: "
        f"{first.id} minus {second.id} on the same support draws",
    )
    console.print(comparison_table(comparison))
    remarks = dict.fromkeys([*first.remarks, *second.remarks])
    print_sentences(console, "Remark", remarks)
    print_sentences(console, "In words", dict.fromkeys(r["statement"] for r in comparison.rows))
    changes = [f"{key}: {one} | {two}" for key, (one, two) in comparison.changes.items()]
    print_sentences(console, f"Settings that differ ({first.id} | {second.id})", changes)
    print_sentences(console, "Note", comparison.notes)


def comparison_table(comparison: Comparison) -> Table:
    """Method, K, both means, and the difference on the same draws with its interval."""
    table = Table()
    table.add_column("method")
    names = (
        comparison.first.id,
        comparison.second.id,
        "difference",
        "95 % interval",
        "n",
        "p (Holm)",
    )
    for name in ("K", *names):
        table.add_column(name, justify="right")
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
