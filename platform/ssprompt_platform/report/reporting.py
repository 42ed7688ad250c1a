"""Makes the report of one study, or the comparison of two, from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.report.compare import Comparison, compare
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.report.page import write_comparison, write_page
from ssprompt_platform.report.parquet import write_tables
from ssprompt_platform.report.printed import (
    print_comparison,
    print_curves,
    print_results,
    print_sentences,
)
from ssprompt_platform.report.results import results_of
from ssprompt_platform.sentences import say
from ssprompt_platform.storage import Place, S3Path, StudyFolder, safe_name, storage_root


@dataclass(frozen=True)
class ReportOptions:
    """What is asked of a report.

    Attributes:
        study: Id of a study below ``root``, or its folder or S3 address.
        second: Another one to compare with.
        root: Storage root.
        target: mIoU whose price in labels is asked for; none: the most telling ones.
        output: Where to write; None: into the (first) study's folder.
    """

    study: str
    second: str | None = None
    root: str = "runs"
    target: Sequence[float] = ()
    output: Path | None = None


def make_report(options: ReportOptions, console: Console) -> Place:
    """Write the report, print what it says, and return the page.

    Raises:
        UserError: A study is not there or is damaged, a target is no mIoU, or the two studies
            cannot be compared; nothing was written.
    """
    for target in options.target:
        if not 0 < target < 1:
            raise UserError(f"--target is {target:g}, but must be an mIoU between 0 and 1")
    folders = [find_study(word, options.root) for word in (options.study, options.second) if word]
    studies = [gather(folder, options.target) for folder in folders]
    output: Place = options.output or folders[0].report
    if isinstance(output, Path) and output.exists() and not output.is_dir():
        raise UserError(f"--output is {output}, which is a file; name a folder")
    if len(studies) == 1:
        return _one(studies[0], output, options.target, console)
    return _two(compare(*studies), output, options.target, console)


def find_study(word: str, root: str) -> StudyFolder:
    """The folder of a study that is named by its id or path.

    Raises:
        UserError: There is none; the message names the nearest id.
    """
    if word.startswith("s3://"):
        place = S3Path.parse(word)
        if place.key and StudyFolder(place.parent, place.name).record.is_file():
            return StudyFolder(place.parent, place.name)
        raise UserError(f"there is no study in {place}: it holds no study.json")
    storage, path = storage_root(root), Path(word).expanduser()
    if isinstance(storage, Path):
        for folder in ((storage / word).resolve(), path.resolve()):
            # the root itself is no study, whatever lies in it
            if folder != storage.resolve() and (folder / "study.json").is_file():
                return StudyFolder(folder.parent, folder.name)
    elif word == safe_name(word) and StudyFolder(storage, word).record.is_file():
        return StudyFolder(storage, word)
    if path.is_dir():
        raise UserError(f"{path} holds no study.json, so it is no study's folder")
    known = sorted(record.parent.name for record in storage.glob("*/study.json"))
    there = f"studies there are {', '.join(known)}" if known else "there is no study there"
    raise UserError(f"there is no study '{word}' in {storage}{nearest(word, known)}; {there}")


def _one(data: StudyData, output: Place, targets: Sequence[float], console: Console) -> Place:
    write_tables(data, output)
    page = write_page(data, output)
    print_results(console, results_of(data), targets)
    say(console, f"\nreport           {page}")
    return page


def _two(
    comparison: Comparison, output: Place, targets: Sequence[float], console: Console
) -> Place:
    first, second = comparison.first, comparison.second
    page = output / f"compare-{second.id}.html"
    write_comparison(comparison, page)
    print_comparison(console, comparison)
    for data in (first, second):
        if targets:
            say(console, f"\n{data.id}")
            print_curves(console, data.statistics["curves"], data.rows, targets)
        print_sentences(console, f"Missing in {data.id}", data.missing)
    say(console, f"\ncomparison       {page}")
    return page
