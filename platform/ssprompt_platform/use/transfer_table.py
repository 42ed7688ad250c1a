"""The score of saved prompts on another data set, as a table and as plain warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

_NAMED = 3
_COLUMNS = 3
"""Methods and K side by side: more would not fit a terminal."""


def transfer_tables(result: Mapping[str, Any]) -> list[Table]:
    """IoU of each class, and the means, for each method and K: a few of these in each table.

    Args:
        result: What :func:`ssprompt_platform.use.transfer.evaluate_prompts` returns.
    """
    groups = result["groups"]
    starts = range(0, len(groups), _COLUMNS)
    return [_table(result["data"], groups[start : start + _COLUMNS]) for start in starts]


def _table(data: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Table:
    things = frozenset(data["things"])
    table = Table(
        title=f"IoU on {data['name']}, {data['split']}: {data['images']} images",
        caption="mean ± standard deviation over files",
    )
    table.add_column("class")
    if things:
        table.add_column("kind")
    for group in groups:
        table.add_column(f"{group['method']}\nK = {group['shots']}", justify="right")

    def add(title: str, kind: str, cells: Sequence[Mapping[str, Any] | None]) -> None:
        table.add_row(title, *([kind] if things else []), *(_cell(cell) for cell in cells))

    for name in data["classes"]:
        kind = "thing" if name in things else "stuff"
        add(name, kind, [group["iou"][name] for group in groups])
    table.add_section()
    if things:
        add("things", "mean", [group["things"] for group in groups])
        add("stuff", "mean", [group["stuff"] for group in groups])
    add("mIoU", "mean", [group["miou"] for group in groups])
    add("mIoU where learned", "", [group["learned_on"] for group in groups])
    return table


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before trusting the table: files that had seen this data set."""
    files, sentences = result["files"], []
    leaked = [file for file in files if file["learned_on"]["of_them_scored_here"]]
    if leaked:
        most = max(file["learned_on"]["of_them_scored_here"] for file in leaked)
        sentences.append(
            f"warning: up to {most} of the {result['data']['images']} scored images are support "
            f"images of {_names(leaked)}; such a score is too good"
        )
    own = [file for file in files if file["learned_on"]["of_them_in_this_data_set"]]
    if own:
        sentences.append(
            f"note: {_names(own)} {'was' if len(own) == 1 else 'were'} learned on this very data "
            "set, so this is no transfer"
        )
    return sentences


def _names(files: Sequence[Mapping[str, Any]]) -> str:
    names = [Path(file["file"]).name for file in files]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")
