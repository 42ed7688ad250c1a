"""The page that lays two studies side by side: differences, both curves, what was set otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssprompt_platform.report.compare import Comparison
from ssprompt_platform.report.figures_base import Album
from ssprompt_platform.report.figures_curves import two_curves
from ssprompt_platform.report.figures_results import paired_differences
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.page_blocks import (
    Block,
    Cell,
    Column,
    Notice,
    Prose,
    Section,
    Table,
    exhibit,
    remarked,
)
from ssprompt_platform.report.page_cells import count, number, plain, tested, tested_columns, word


def comparison_remarks(comparison: Comparison) -> list[str]:
    """The remarks of both studies, each with the study it is of."""
    return [
        f"{data.id}: {remark}"
        for data in (comparison.first, comparison.second)
        for remark in data.remarks
    ]


def comparison_banners(comparison: Comparison) -> list[Notice]:
    """What must be read before any difference."""
    notices = [Notice(remark, "remark") for remark in comparison_remarks(comparison)]
    for data in (comparison.first, comparison.second):
        if data.missing:
            notices.append(Notice(f"What {data.id} lacks", "missing", data.missing))
    return notices


def comparison_sections(comparison: Comparison, album: Album, stem: str) -> list[Section]:
    """Sections of the page; figures are written as ``<stem>-*``."""
    sections = [
        Section("answer", "The answer", _answer(comparison, album, stem)),
        Section("differences", "Differences", _table(comparison)),
        Section("curves", "Learning curves", _curves(comparison, album, stem)),
        Section("settings", "What was set otherwise", _changes(comparison)),
    ]
    return [section for section in sections if section.blocks]


def _answer(comparison: Comparison, album: Album, stem: str) -> list[Block]:
    first, second, rows = comparison.first, comparison.second, comparison.rows
    notes: list[Block] = [Notice(note) for note in comparison.notes]
    if not rows:
        return [Prose(["The studies have no method and K whose draws could be paired."]), *notes]
    won = [row for row in rows if row["significant"] and row["difference"] > 0]
    lost = [row for row in rows if row["significant"] and row["difference"] < 0]
    sentence = (
        f"Of {len(rows)} methods and K that both studies have, {first.id} is better in {len(won)} "
        f"and {second.id} in {len(lost)}; {len(rows) - len(won) - len(lost)} are not told apart."
    )
    said = [f"{row['statement']}." for row in won + lost]
    title = "Paired differences in mIoU, the first study minus the second"
    pairs = [{**row, "label": row["method"]} for row in rows]
    verdicts = (f"{first.id} better", f"{second.id} better")
    picture = album.draw(f"{stem}-differences", title, lambda: paired_differences(pairs, verdicts))
    caption = (
        "Mean difference in mIoU on the same support draws and test images, with its 95 % "
        "t-interval. Filled: significant at 5 % after Holm's correction for all tests of the page. "
        "Open and grey: not told apart."
    )
    shown = exhibit(picture, title, caption, remarks=comparison_remarks(comparison))
    return [Prose([sentence]), *([Prose(said, "points")] if said else []), *notes, shown]


def _table(comparison: Comparison) -> list[Block]:
    if not comparison.rows:
        return []
    columns = [
        Column("method", numeric=False),
        Column("K"),
        Column(comparison.first.id, meaning="mean mIoU, test split"),
        Column(comparison.second.id, meaning="mean mIoU, test split"),
        *tested_columns(
            Column("difference", meaning="first minus second, mean over common draws"),
            Column("n", meaning="draws with the same support images"),
        ),
        Column("verdict", numeric=False),
    ]
    made = [
        [
            word(row["method"]),
            count(row["shots"]),
            number(row["first"]),
            number(row["second"]),
            *tested(row),
            _verdict(row, comparison),
        ]
        for row in comparison.rows
    ]
    caption = (
        f"mIoU of both studies on the same test images. Differences are {comparison.first.id} "
        f"minus {comparison.second.id} over the draws with the same support images."
    )
    return [remarked(Table(caption, columns, made), comparison_remarks(comparison))]


def _verdict(row: Mapping[str, Any], comparison: Comparison) -> Cell:
    if row["p"] is None:
        return Cell("no test", "no test", "quiet", row["statement"])
    if not row["significant"]:
        return word("not told apart", "quiet")
    better = comparison.first if row["difference"] > 0 else comparison.second
    return word(f"{better.id} is better")


def _curves(comparison: Comparison, album: Album, stem: str) -> list[Block]:
    studies = (comparison.first, comparison.second)
    common = _common([data.rows for data in studies])
    if not common:
        return []
    title = "Learning curves of both studies"
    rows = {data.id: data.rows for data in studies}
    picture = album.draw(f"{stem}-curves", title, lambda: two_curves(rows, common))
    caption = (
        f"Mean mIoU over all draws of each study with its 95 % t-interval: {comparison.first.id} "
        f"whole, {comparison.second.id} broken. Intervals of two studies may overlap although the "
        "paired difference is significant, because draws are shared."
    )
    return [exhibit(picture, title, caption, remarks=comparison_remarks(comparison))]


def _common(studies: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Methods with a score in both, in the first one's order."""
    first, second = ([row["method"] for row in rows] for rows in studies)
    return [method for method in dict.fromkeys(first) if method in second]


def _changes(comparison: Comparison) -> list[Block]:
    if not comparison.changes:
        return [Prose(["Both studies have the same configuration."])]
    columns = [
        Column("setting", numeric=False),
        Column(comparison.first.id, numeric=False),
        Column(comparison.second.id, numeric=False),
    ]
    made = [
        [word(key), word(plain(before)), word(plain(now))]
        for key, (before, now) in comparison.changes.items()
    ]
    caption = (
        "Settings that differ. Where there are several, a difference in score is not of one alone."
    )
    return [Table(caption, columns, made)]


def comparison_facts(comparison: Comparison) -> dict[str, str]:
    """What both studies share, and how far each came."""
    facts = comparison.first.facts
    shared = f"{facts['data']}: {len(facts['classes'])} classes, {facts['test_images']:,} images"
    return {"data": shared} | {
        f"study {data.id}": _state(data) for data in (comparison.first, comparison.second)
    }


def _state(data: StudyData) -> str:
    return f"{data.facts['model']}, {'finished' if data.finished else 'not finished'}"
