"""Compares two studies of the same data: differences of the same method, K and draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssprompt_core.data.support import SupportDraw
from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.changes import changes_of
from ssprompt_platform.identity import flat
from ssprompt_platform.plan import Group
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.stats.paired import Paired, holm, pair
from ssprompt_platform.stats.words import chance, count, share, span
from ssprompt_platform.storage import Place, StudyFolder

_NAMES = frozenset({"study.name"})
_PARTS = {
    "segmenter": ("frozen model", "model"),
    "text_encoder": ("text encoder", "text_encoder"),
}
"""Fingerprint -> what it is called, and its name among the facts."""


@dataclass(frozen=True)
class Comparison:
    """Two studies side by side.

    Attributes:
        first: One study.
        second: The other.
        changes: Settings that differ: dotted key -> (first, second).
        rows: One per method and K that both have a score of: ``method``, ``shots``, ``first`` and
            ``second`` (mean mIoU of each, over all of its draws), ``difference`` (mean of first
            minus second over the draws of the same support images), ``ci95``, ``p``, ``p_holm``
            (over all rows), ``n`` (pairs), ``significant`` and ``statement``.
        notes: Sentences on what is not the same, or not compared.
    """

    first: StudyData
    second: StudyData
    changes: dict[str, tuple[Any, Any]]
    rows: list[dict[str, Any]]
    notes: list[str]


def compare(first: StudyData, second: StudyData) -> Comparison:
    """Compare two studies; every difference is first minus second.

    Raises:
        UserError: The data or the test images differ, so that the scores cannot be compared.
    """
    _check_comparable(first, second)
    changes = {
        change.key: (change.before, change.now)
        for change in changes_of(dict(flat(first.config)), dict(flat(second.config)))
        if change.key not in _NAMES
    }
    pairs: dict[Group, Paired] = {}
    unpaired: list[Group] = []
    means = [_means(data) for data in (first, second)]
    for group in first.groups:
        if not all(group in of_study for of_study in means):
            continue
        one, two = _scores(first, group), _scores(second, group)
        numbers = _same_draws(first, second, group, sorted(one.keys() & two.keys()))
        if numbers:
            sides = [np.array([of_draw[n] for n in numbers]) for of_draw in (one, two)]
            pairs[group] = pair(*sides)
        else:
            unpaired.append(group)
    # one family: whatever of it is read, it is read beside all the rest
    size, corrected = holm([paired.p for paired in pairs.values()])
    rows = []
    for (group, paired), p_holm in zip(pairs.items(), corrected, strict=True):
        row: dict[str, Any] = {
            "method": group.method,
            "shots": group.shots,
            "first": means[0][group],
            "second": means[1][group],
            **paired.to_dict(p_holm, size),
        }
        statement = _sentence(row, paired.why, first.id, second.id)
        if not METHODS[group.method].uses_support:
            statement = (
                f"{group.method} learns nothing and has one score in each study: the difference "
                f"is {share(row['difference'])}"
            )
        rows.append({**row, "statement": statement})
    return Comparison(first, second, changes, rows, _notes(first, second, unpaired))


def _sentence(row: Mapping[str, Any], why: str, first: str, second: str) -> str:
    """A row in words, told from the side of the better study."""
    what = f"{row['method']} at K = {row['shots']}"
    turn = 1 if row["difference"] >= 0 else -1
    better, other = (first, second)[::turn]
    size = share(turn * row["difference"])
    if row["p_holm"] is None:
        return f"no test of {first} against {second} for {what}: {why} (mean difference {size})"
    size += f" {span(sorted(turn * end for end in row['ci95']))}"
    test = (
        f"(paired t-test over {row['n']} draws, {chance(row['p_holm'])} after Holm for "
        f"{count(row['family_size'], 'comparison')})"
    )
    if row["significant"]:
        return f"{what} is better in {better} than in {other} by {size} {test}"
    return f"no difference of {what} can be told between {better} and {other}: {size} {test}"


def _check_comparable(first: StudyData, second: StudyData) -> None:
    names = f"{first.id} and {second.id} cannot be compared"
    if _same_place(first.folder.path, second.folder.path):
        raise UserError(f"{names}: they are the same study; name two")
    if first.record["fingerprints"]["data"] != second.record["fingerprints"]["data"]:
        raise UserError(
            f"{names}: the images, labels or classes differ ({first.facts['data']}, "
            f"{len(first.facts['classes'])} classes; {second.facts['data']}, "
            f"{len(second.facts['classes'])} classes)"
        )
    ones, twos = set(first.facts["test_ids"]), set(second.facts["test_ids"])
    if ones != twos:
        raise UserError(
            f"{names}: they are scored on different test images ({len(ones)} and {len(twos)}, "
            f"{len(ones & twos)} of them the same); run one again with the other's "
            "data.max_test_images and study.seed"
        )


def _means(data: StudyData) -> dict[Group, float]:
    """Mean mIoU of each method and K over all of its draws."""
    return {Group(row["method"], row["shots"]): row["mean"] for row in data.rows}


def _scores(data: StudyData, group: Group) -> dict[int, float]:
    """MIoU by draw number."""
    for row in data.rows:
        if (row["method"], row["shots"]) == (group.method, group.shots):
            return dict(zip(row["draw_numbers"], row["draws"], strict=True))
    return {}


def _same_draws(
    first: StudyData, second: StudyData, group: Group, numbers: Sequence[int]
) -> list[int]:
    """Those draws whose support images are the same in both studies."""
    if METHODS[group.method].uses_support:
        return [
            number
            for number in numbers
            if _support(first.folder, number, group.shots)
            == _support(second.folder, number, group.shots)
        ]
    return list(numbers)


def _same_place(first: Place, second: Place) -> bool:
    if isinstance(first, Path) and isinstance(second, Path):
        return first.resolve() == second.resolve()
    return first == second


def _support(folder: StudyFolder, number: int, shots: int) -> frozenset[str]:
    path = folder.draws / f"draw-{number}.json"
    try:
        return frozenset(SupportDraw.from_json(path.read_text()).support[shots])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} does not hold the support images of K = {shots}: {error!r}"
        ) from error


def _notes(first: StudyData, second: StudyData, unpaired: Sequence[Group]) -> list[str]:
    """What the differences are not of the settings alone, and what has none."""
    notes = [
        f"The {what} differs: {first.facts[key]} and {second.facts[key]}."
        if first.facts[key] != second.facts[key]
        else f"The weights of the {what} {first.facts[key]} differ."
        for part, (what, key) in _PARTS.items()
        if first.record["fingerprints"][part] != second.record["fingerprints"][part]
    ]
    for data, other in ((first, second), (second, first)):
        theirs = {(row["method"], row["shots"]) for row in other.rows}
        alone = [
            f"{row['method']} at K = {row['shots']}"
            for row in data.rows
            if (row["method"], row["shots"]) not in theirs
        ]
        if alone:
            notes.append(f"Only {data.id} has scores of {', '.join(alone)}.")
    if unpaired:
        listed = ", ".join(f"{group.method} at K = {group.shots}" for group in unpaired)
        notes.append(
            f"No draw of {listed} has the same support images in both studies: without pairs, "
            "their means say nothing about a difference."
        )
    return notes
