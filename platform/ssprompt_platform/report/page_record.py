"""Sections of the page about how the numbers came to be: protocol, changes, settings, versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.page_blocks import (
    Block,
    Cell,
    Code,
    Column,
    Fold,
    Notice,
    Prose,
    Section,
    Table,
    remarked,
)
from ssprompt_platform.report.page_cells import NOTHING, count, plain, word
from ssprompt_platform.report.tables import versions


def record_sections(data: StudyData) -> list[Section]:
    """How the study was done; all of it is from its own record but the versions."""
    sections = [
        Section("protocol", "Protocol", _protocol(data)),
        Section("extensions", "Extensions of the study", _extensions(data)),
        Section("settings", "Configuration", _settings(data)),
        Section("environment", "Environment", _environment(data)),
    ]
    return [section for section in sections if section.blocks]


def _protocol(data: StudyData) -> list[Block]:
    blocks: list[Block] = [Prose(list(data.protocol), "steps")] if data.protocol else []
    labelled = data.facts["labelled"]
    if labelled:
        columns = [
            Column("K", meaning="labelled images per class"),
            Column("support images", meaning="of a draw; most and least over draws"),
            Column("labelled images", meaning="distinct ones, with those of the selection"),
        ]
        rows = [
            [count(int(k)), _range(data.facts["support_images"].get(k, [])), count(labelled[k])]
            for k in sorted(labelled, key=int)
        ]
        caption = (
            "Labelled images that a K stands for, as a mean over draws. One image may show several "
            "classes and counts once."
        )
        blocks.append(remarked(Table(caption, columns, rows), data.remarks))
    return blocks


def _range(values: list[int]) -> Cell:
    if not values:
        return NOTHING
    low, high = min(values), max(values)
    return Cell(str(low) if low == high else f"{low} to {high}", low)


def _extensions(data: StudyData) -> list[Block]:
    made = data.record.get("extensions", [])
    if not made:
        return []
    blocks: list[Block] = []
    if any(extension["after_scores"] for extension in made):
        blocks.append(
            Notice(
                "The study was extended after test scores had been seen. Whoever decides to go on "
                "by the scores makes a difference look surer than it is.",
                "remark",
            )
        )
    columns = [
        Column("when", numeric=False),
        Column("what changed", numeric=False),
        Column("test scores", numeric=False),
    ]
    rows = [
        [
            word(_moment(extension["at"])),
            word(
                "; ".join(
                    f"{key}: {plain(before)} → {plain(now)}"
                    for key, (before, now) in extension["changes"].items()
                )
            ),
            word("seen before", "warn") if extension["after_scores"] else word("not seen before"),
        ]
        for extension in made
    ]
    caption = "What was added to the study after it was begun; all else is as it was."
    return [*blocks, remarked(Table(caption, columns, rows), data.remarks)]


def _settings(data: StudyData) -> list[Block]:
    chosen = [row for row in data.rows if row["best"]]
    blocks: list[Block] = []
    if chosen:
        names = list(dict.fromkeys(name for row in chosen for name in row["best"]))
        columns = [Column("method", numeric=False), Column("K")]
        columns += [Column(name, numeric=_is_number(chosen, name)) for name in names]
        rows = [
            [word(row["method"]), count(row["shots"]), *(_value(row["best"], n) for n in names)]
            for row in chosen
        ]
        caption = "Hyperparameters of the final fits, chosen by the search on selection images."
        blocks.append(remarked(Table(caption, columns, rows), data.remarks))
    text = json.dumps(data.config, indent=2, ensure_ascii=False)
    return [*blocks, Fold("The full configuration", [Code(text)])]


def _is_number(rows: list[dict[str, Any]], name: str) -> bool:
    values = [row["best"][name] for row in rows if name in row["best"]]
    return all(isinstance(value, int | float) for value in values)


def _value(setting: Mapping[str, Any], name: str) -> Cell:
    value = setting.get(name)
    if value is None:
        return NOTHING
    return Cell(plain(value), value if isinstance(value, int | float) else str(value))


def _environment(data: StudyData) -> list[Block]:
    columns = [Column("what", numeric=False), Column("value", numeric=False)]
    prints = {f"fingerprint of {name.replace('_', ' ')}": value
              for name, value in data.record["fingerprints"].items()}  # fmt: skip
    rows = [[word(name), word(str(value))] for name, value in {**versions(), **prints}.items()]
    caption = (
        "Versions on the machine that made this page, and fingerprints of the content that the "
        "study was begun with."
    )
    return [Table(caption, columns, rows)]


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M}"
