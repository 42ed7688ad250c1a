"""Sections of the page about test scores: table, differences, classes, predictions, pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image

from ssprompt_platform.fit_files import load_shown
from ssprompt_platform.plan import FitKey
from ssprompt_platform.report.figures import overlay_figure
from ssprompt_platform.report.figures_base import Album, short
from ssprompt_platform.report.figures_results import (
    MOST_CLASSES,
    class_bars,
    paired_differences,
    shown_pairs,
)
from ssprompt_platform.report.figures_shown import best_and_worst
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.page_blocks import (
    Block,
    Exhibit,
    Fold,
    Notice,
    Prose,
    Section,
    data_uri,
    exhibit,
    photo_uri,
    remarked,
)
from ssprompt_platform.report.page_tables import comparison_rows, score_rows
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import Place

_MOST_OVERLAYS = 3
# pictures of what was learned, made when a study ends: file, title, how to read it
_PICTURES = (
    ("per-class.png", "IoU of every class by method",
     "Darker is better. The first column is the mean over all classes; small numbers are half of "
     "the 95 % t-interval over draws."),
    ("weights.png", "Learned weights",
     "w is the share of the learned embedding in a prompt; the rest is that of the frozen encoder. "
     "Training starts at one half. Dots are draws, bars their mean."),
    ("attention.png", "Where spatial prompts look",
     "Attention of the spatial prompts, averaged over them, in the last two-way layer of the mask "
     "decoder; 1 is what an even spread gives each cell."),
    ("attention-prompts.png", "Where each spatial prompt looks",
     "The same, prompt by prompt: the frozen grid's beside the learned ones."),
)  # fmt: skip


def result_sections(data: StudyData, album: Album) -> list[Section]:
    """Sections about the test split; empty ones are left out."""
    sections = [
        Section("scores", "Scores", _scores(data)),
        Section("differences", "Differences between methods", _differences(data, album)),
        Section("classes", "Classes", _classes(data, album)),
        Section("predictions", "Predictions, best and worst", _predictions(data, album)),
        Section("learned", "What was learned", _pictures(data)),
    ]
    return [section for section in sections if section.blocks]


def _scores(data: StudyData) -> list[Block]:
    blocks: list[Block] = []
    if data.rows:
        blocks.append(remarked(score_rows(data.rows), data.remarks))
    if data.failed:
        points = [
            f"{f['method']}, K = {f['shots']}, draw {f['draw']}: {f['cause']}" for f in data.failed
        ]
        blocks.append(
            Notice(f"Final fits that failed, whose draws are in no number: {len(points)}",
                   "missing", points)
        )  # fmt: skip
    return blocks


def _differences(data: StudyData, album: Album) -> list[Block]:
    comparisons = data.statistics["methods"]
    if not comparisons:
        return []
    title = "Paired differences between methods"
    shown = shown_pairs(comparisons, _main_method(data.rows))
    picture = album.draw("paired-differences", title, lambda: paired_differences(shown))
    told = sum(bool(c["significant"]) for c in comparisons)
    caption = (
        "Mean difference in mIoU between two methods on the same support draws, with its 95 % "
        "t-interval. Filled: significant at 5 % after Holm's correction for all "
        f"{comparisons[0]['family_size']} tests. Open and grey: not told apart; its interval may "
        "miss zero all the same, for it is not corrected."
    )
    if len(shown) < len(comparisons):
        caption += f" Shown are the pairs with {shown[0]['first']}; the table has all."
    return [
        Prose([f"{told} of {len(comparisons)} comparisons tell two methods apart."]),
        exhibit(picture, title, caption, remarks=data.remarks),
        Fold(f"All {len(comparisons)} comparisons",
             [remarked(comparison_rows(comparisons), data.remarks)]),
    ]  # fmt: skip


def _main_method(rows: Sequence[Mapping[str, Any]]) -> str:
    """The method of highest mean at the largest K."""
    largest = max(row["shots"] for row in rows)
    best = max((r for r in rows if r["shots"] == largest), key=lambda row: row["mean"])
    return str(best["method"])


def _classes(data: StudyData, album: Album) -> list[Block]:
    if not data.per_class:
        return []
    shots = max(row["shots"] for row in data.rows)
    title = f"IoU by class at K = {shots}"
    picture = album.draw("classes", title, lambda: class_bars(data.rows, data.per_class, shots))
    caption = (
        "Bars are means over draws, lines their 95 % t-interval. Bold names on top are means over "
        "classes. Classes stand from best to worst over all methods"
    )
    caption += ", things before stuff." if data.facts["things"] else "."
    if not data.facts["things"]:
        caption += " The data set does not say which classes are things and which are stuff."
    if len(data.facts["classes"]) > MOST_CLASSES:
        caption += f" Of its classes the {MOST_CLASSES // 2} best and worst are shown."
    return [exhibit(picture, title, caption, remarks=data.remarks)]


def _predictions(data: StudyData, album: Album) -> list[Block]:
    shown = {key: images for key, images in _shown(data).items() if images}
    if not data.rows:
        return []
    if not shown:
        return [Prose(["No finished fit has kept predictions to show."])]
    classes = data.facts["classes"]
    main = _main_method(data.rows)
    key = next((key for key in shown if key.method == main), next(iter(shown)))
    blocks: list[Block] = []
    if any(image.miou is not None for image in shown[key]):
        title = f"Best and worst predictions of {key.method} at K = {key.shots}, draw {key.draw}"
        picture = album.draw(
            "best-and-worst", title, lambda: best_and_worst(shown[key], classes), vector=False
        )
        caption = (
            "Each row is a test image: the image, its label, the prediction, and its wrong pixels "
            "in black. The mIoU of a single image weighs small classes as much as large ones. The "
            "worst are the worst of the whole test split, the best are the best of those kept."
        )
        blocks.append(exhibit(picture, title, caption, remarks=data.remarks))
    common = set.intersection(*({i.image_id for i in images} for images in shown.values()))
    for number, first in enumerate(
        [i for i in shown[key] if i.image_id in common][:_MOST_OVERLAYS], start=1
    ):
        maps = {
            k.method: image.predicted
            for k, images in shown.items()
            for image in images
            if image.image_id == first.image_id
        }
        title = f"Predictions of all methods on test image {short(first.image_id, 60)}"
        picture = album.draw(
            f"overlay-{number}", title,
            partial(overlay_figure, first.image, first.truth, maps, classes, across=4),
            vector=False,
        )  # fmt: skip
        caption = (
            "Class colours over the image in grey, at the largest K and draw 0. The image was "
            "chosen before any score was known."
        )
        blocks.append(exhibit(picture, title, caption, remarks=data.remarks))
    return blocks


def _shown(data: StudyData) -> dict[FitKey, list[ShownImage]]:
    """Images kept beside the fits, of each method's fit that has some, at its largest K."""
    found: dict[str, FitKey] = {}
    for key in sorted(data.fits, key=lambda key: (-key.shots, key.draw)):
        if key.method not in found and load_shown(data.folder.fits, key):
            found[key.method] = key
    order = dict.fromkeys(method for method, _ in data.facts["groups"])
    keys = [found[method] for method in order if method in found]
    return {key: load_shown(data.folder.fits, key) for key in keys}


def _pictures(data: StudyData) -> list[Block]:
    """Pictures that were made from the fits when the study ended."""
    blocks: list[Block] = []
    for name, title, caption in _PICTURES:
        path = data.folder.pictures / name
        if path.is_file():
            blocks.append(_as_it_is(path, title, caption, data.remarks))
    return blocks


def _as_it_is(path: Place, title: str, caption: str, remarks: Sequence[str]) -> Exhibit:
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        width, height = picture.size
    # made at 150 pixels an inch
    scale = 96 / 150
    source = photo_uri(path) if path.name.startswith("attention") else data_uri(path)
    return Exhibit(
        source, title, f"{title}. {caption}", caption, round(width * scale),
        round(height * scale), path.stem, remarks,
    )  # fmt: skip
