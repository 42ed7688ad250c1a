"""Tables and JSON of what looking after a storage root came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ssprompt_platform.doctor.findings import size
from ssprompt_platform.sentences import say, tell
from ssprompt_platform.storage_admin.garbage import Found
from ssprompt_platform.storage_admin.listing import Amount
from ssprompt_platform.storage_admin.studies import state_of
from ssprompt_platform.storage_admin.usage import StudyUsage, Usage

_WIDTH = 120


def show_found(found: Found, console: Console) -> None:
    """Print what is nobody's by kind, and what is kept because that cannot be told."""
    table = _new("nobody's", "objects", "bytes", "too young", "because")
    for garbage in found.garbage:
        amount = garbage.amount
        table.add_row(
            garbage.kind,
            str(amount.objects),
            size(amount.bytes),
            f"{garbage.young.objects}" if garbage.young.objects else "",
            garbage.why,
        )
    total = found.total
    table.add_row("all", str(total.objects), size(total.bytes), "", "", style="bold")
    if found.garbage:
        _print(table, console)
    if found.asked:
        tell(console, f"MLflow that was asked: {', '.join(found.asked)}")
    for sentence in found.kept:
        tell(console, f"kept: {sentence}")


def found_as_json(found: Found, deleted: bool) -> dict[str, Any]:
    """The same for programs, with every name."""
    return {
        "deleted": deleted,
        "garbage": [
            {
                "kind": garbage.kind,
                "why": garbage.why,
                "objects": garbage.amount.objects,
                "bytes": garbage.amount.bytes,
                "too_young": _amount(garbage.young),
                "places": [str(entry.place) for entry in garbage.found],
                "uploads": [key for key, _ in garbage.uploads],
            }
            for garbage in found.garbage
        ],
        "total": _amount(found.total),
        "kept": found.kept,
        "asked": found.asked,
    }


def show_usage(usage: Usage, console: Console, one: bool) -> None:
    """Print what a study costs by kind, or a line for each and what they share."""
    if one:
        for each in usage.studies:
            _show_study(each, console)
    else:
        _show_studies(usage, console)
    for sentence in usage.remarks:
        tell(console, f"remark: {sentence}")


def usage_as_json(usage: Usage) -> dict[str, Any]:
    """The same for programs."""
    return {
        "studies": [
            {
                "id": each.study.study_id,
                "begun": each.study.begun,
                "state": state_of(each.study),
                "kinds": {kind: _amount(amount) for kind, amount in each.own.kinds.items()},
                "artifacts": _amount(each.artifacts),
                "former_versions": _amount(each.former),
                "total": _amount(each.total),
                "shared_embeddings": _amount(each.embeddings),
            }
            for each in usage.studies
        ],
        "shared": {kind: _amount(amount) for kind, amount in usage.shared.kinds.items()},
        "total": _amount(usage.total),
        "remarks": usage.remarks,
    }


def _show_study(each: StudyUsage, console: Console) -> None:
    study = each.study
    say(
        console, f"{study.study_id}: {state_of(study)}, begun {study.begun or 'at an unknown time'}"
    )
    table = _new("kind", "objects", "bytes")
    rows = [*each.own.kinds.items(), ("artifacts in MLflow", each.artifacts),
            ("former versions", each.former)]  # fmt: skip
    for kind, amount in rows:
        if amount is not None and (amount.objects or kind != "former versions"):
            table.add_row(kind, *_cells(amount))
    table.add_row("of this study alone", *_cells(each.total), style="bold")
    table.add_row("embeddings, shared", *_cells(each.embeddings))
    _print(table, console)


def _show_studies(usage: Usage, console: Console) -> None:
    table = _new("study", "begun", "state", "objects", "bytes", "artifacts")
    for each in usage.studies:
        artifacts = "?" if each.artifacts is None else size(each.artifacts.bytes)
        table.add_row(
            each.study.study_id, each.study.begun[:16], state_of(each.study), *_cells(each.total),
            artifacts,
        )  # fmt: skip
    for kind, amount in usage.shared.kinds.items():
        table.add_row(kind, "", "shared" if kind != "other" else "", *_cells(amount), "")
    table.add_row("all", "", "", *_cells(usage.total), "", style="bold")
    _print(table, console)


def _new(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        numbers = name in ("objects", "bytes", "too young", "artifacts")
        table.add_column(name, justify="right" if numbers else "left", no_wrap=numbers)
    return table


def _print(table: Table, console: Console) -> None:
    # a file or a pipe has no width of its own
    console.print(table, highlight=False, width=None if console.is_terminal else _WIDTH)


def _cells(amount: Amount | None) -> tuple[str, str]:
    return ("?", "?") if amount is None else (str(amount.objects), size(amount.bytes))


def _amount(amount: Amount | None) -> dict[str, int] | None:
    return None if amount is None else {"objects": amount.objects, "bytes": amount.bytes}


def sentences(found: Found, gone: Amount | None) -> Sequence[str]:
    """What was deleted, or how it would be."""
    if gone is not None:
        return [f"deleted {gone.objects} objects, {size(gone.bytes)}"]
    if found.total.objects:
        return ["nothing was deleted (dry run); add --delete to delete what the table shows"]
    return ["there is nothing to delete"]
