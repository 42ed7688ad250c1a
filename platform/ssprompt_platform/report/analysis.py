"""What a study shows beyond its scores: tables and pictures, made from the finished fits.

Nothing here chooses anything, and nothing asks for a test label: what pictures show of the test
split was kept by the fits that scored it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssprompt_core.analysis.attention import AttentionUnavailableError
from ssprompt_core.methods import METHODS
from ssprompt_platform.final import WORST, FinalBench, load_shown
from ssprompt_platform.plan import FitKey, StudyPlan
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.attention import attention_maps, attention_rows
from ssprompt_platform.report.figures_analysis import (
    class_heatmap,
    failure_cases,
    weight_strips,
)
from ssprompt_platform.report.figures_attention import mean_attention, prompt_attention
from ssprompt_platform.report.figures_shown import wrong_share
from ssprompt_platform.report.prompt_tables import (
    Prompts,
    flat_names,
    name_rows,
    read_prompts,
    weight_rows,
    weight_summary,
    write_csv,
)
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.storage import Place, StudyFolder, write_text

_ATTENTION_IMAGES = 3


@dataclass(frozen=True)
class Exhibit:
    """A picture or table, and how to read it in one line."""

    path: Place
    reading: str


@dataclass
class Analysis:
    """What was made, and what could not be.

    Attributes:
        record: For ``results.json``.
        exhibits: Pictures and tables.
        missing: Sentences about what this study has no basis for.
    """

    record: dict[str, Any] = field(default_factory=dict)
    exhibits: list[Exhibit] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def analyse(
    prepared: Prepared,
    final: FinalBench,
    fits: Mapping[FitKey, dict[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    per_class: Sequence[Mapping[str, Any]],
) -> Analysis:
    """Make all tables and pictures of a finished study in seconds, in the driver.

    Args:
        prepared: The study.
        final: What its final fits used.
        fits: Their records.
        rows: Scores per method and K.
        per_class: Scores per method, K and class.
    """
    analysis = Analysis()
    read = read_prompts(prepared.plan, final.fits)
    prompts = {key: tensors for key, tensors in read.items() if key in fits}
    _classes(analysis, prepared, rows, per_class)
    _weights(analysis, prepared, prompts)
    _names(analysis, prepared, prompts)
    _failures(analysis, prepared, final, fits)
    _attention(analysis, prepared, final, fits, prompts)
    return analysis


def shown_fits(plan: StudyPlan) -> dict[str, FitKey]:
    """The fit of each method that pictures show: largest K, draw 0."""
    largest = max(group.shots for group in plan.groups)
    return {
        key.method: key
        for key in plan.fits
        if key.draw == 0 and (key.shots == largest or not METHODS[key.method].uses_support)
    }


def main_method(methods: Sequence[str]) -> str:
    """The method that single pictures show: ``ssprompt``, or else the last one that learns."""
    learning = [method for method in methods if METHODS[method].uses_support]
    return "ssprompt" if "ssprompt" in learning else (learning or list(methods))[-1]


def index_path(folder: StudyFolder) -> Place:
    """The list of a study's pictures and tables."""
    return folder.path / "analysis.md"


def write_index(
    folder: StudyFolder,
    exhibits: Sequence[Exhibit],
    missing: Sequence[str],
    remarks: Sequence[str] = (),
) -> Place:
    """Write ``analysis.md``, which lists everything with a line on how to read it.

    ``remarks`` are what every table and picture of the study must say.
    """
    lines = [f"# Analysis of {folder.study_id}", ""]
    for remark in remarks:
        lines += [f"**Remark:** {remark}", ""]
    for title, suffix in (("Pictures", ".png"), ("Tables", ".csv")):
        lines += [f"## {title}", ""]
        for exhibit in exhibits:
            if exhibit.path.suffix == suffix:
                name = str(exhibit.path).removeprefix(f"{folder.path}/")
                lines.append(f"- [{name}]({name}): {exhibit.reading}")
        lines.append("")
    if missing:
        lines += ["## Not available", "", *(f"- {sentence}" for sentence in missing), ""]
    lines += ["The numbers are also in `results.json`, under `per_class` and `analysis`.", ""]
    path = index_path(folder)
    write_text(path, "\n".join(lines))
    return path


def _tables(prepared: Prepared) -> Place:
    return prepared.folder.path / "tables"


def _title(prepared: Prepared) -> str:
    return f"{prepared.dataset.name}, {prepared.config.model.name}: {prepared.folder.study_id}"


def _classes(
    analysis: Analysis,
    prepared: Prepared,
    rows: Sequence[Mapping[str, Any]],
    per_class: Sequence[Mapping[str, Any]],
) -> None:
    table, picture = _tables(prepared) / "per-class.csv", prepared.folder.pictures / "per-class.png"
    flat = []
    for row in per_class:
        low, high = row["ci95"] or (None, None)
        known = {name: row[name] for name in ("method", "shots", "class", "thing")}
        flat.append(
            {**known, "iou": row["mean"], "low": low, "high": high, "draws": len(row["draws"])}
        )
    write_csv(table, flat)
    largest = max(row["shots"] for row in rows)
    class_heatmap(
        picture, rows, per_class, largest, f"IoU by class at K = {largest}. {_title(prepared)}"
    )
    analysis.exhibits += [
        Exhibit(
            picture,
            f"IoU of each method by class at K = {largest}: mean over draws, below it half the "
            "95 % interval; bold columns are means over classes",
        ),
        Exhibit(table, "IoU of each method, K and class with 95 % interval over the draws"),
    ]


def _weights(analysis: Analysis, prepared: Prepared, prompts: Mapping[FitKey, Prompts]) -> None:
    rows = weight_rows(prompts, prepared.dataset.class_names)
    analysis.record["weights"] = weight_summary(rows)
    if not rows:
        analysis.missing.append("Learned weights: no method of this study learns weights.")
        return
    table, picture = _tables(prepared) / "weights.csv", prepared.folder.pictures / "weights.png"
    write_csv(table, rows)
    weight_strips(picture, rows, f"Learned weights. {_title(prepared)}")
    reading = (
        "w = share of the learned embedding, 1 - w = share of the frozen encoder; training starts "
        "at 0.5. In `*_weight_only` nothing is mixed in: the default prompt is scaled by "
        "2 (1 - w). K may differ in their number of spatial prompts, which then lie elsewhere"
    )
    analysis.exhibits += [
        Exhibit(picture, f"weight of each spatial prompt and class, by K. {reading}"),
        Exhibit(table, f"weight of every prompt in every fit (with a weight per dimension: mean "
                       f"and range). {reading}"),
    ]  # fmt: skip


def _names(analysis: Analysis, prepared: Prepared, prompts: Mapping[FitKey, Prompts]) -> None:
    rows = name_rows(prepared.plan, prompts, prepared.dataset.class_names)
    analysis.record["nearest_names"] = rows
    if not rows:
        analysis.missing.append("Nearest class names: no method learns semantic prompts.")
        return
    table = _tables(prepared) / "nearest-names.csv"
    write_csv(table, flat_names(rows))
    analysis.exhibits.append(
        Exhibit(
            table,
            "the class names whose frozen embeddings are nearest (cosine, mean over draws) to each "
            "learned semantic prompt; own_first counts the draws in which its own name is first",
        )
    )


def _failures(
    analysis: Analysis,
    prepared: Prepared,
    final: FinalBench,
    fits: Mapping[FitKey, dict[str, Any]],
) -> None:
    plan, dataset = prepared.plan, prepared.dataset
    analysis.record["failures"] = []
    shown = {method: key for method, key in shown_fits(plan).items() if key in fits}
    if not shown:
        analysis.missing.append("Failure cases: no fit that pictures show is finished.")
        return
    scores: dict[str, Any] = {method: fits[key].get("image_miou") for method, key in shown.items()}
    if None in scores.values():
        analysis.missing.append(
            "Failure cases: some fits are of an older version, which kept no score per image."
        )
        return
    table = _tables(prepared) / "image-scores.csv"
    write_csv(
        table,
        [
            {"image": image_id, **{method: scores[method][number] for method in shown}}
            for number, image_id in enumerate(plan.test_ids)
        ],
    )
    analysis.exhibits.append(
        Exhibit(table, "mIoU of each test image by itself, of each method at the largest K, draw "
                       "0; empty where the label shows no class")
    )  # fmt: skip
    method = main_method(list(shown))
    key = shown[method]
    failures = worst_shown(load_shown(final.fits, key))
    if not failures:
        analysis.missing.append("Failure cases: no test label shows a class.")
        return
    analysis.record["failures"] = [
        {"method": method, "shots": key.shots, "draw": 0, "image": failure.image_id,
         "miou": failure.miou, "wrong": wrong_share(failure)}
        for failure in failures
    ]  # fmt: skip
    picture = prepared.folder.pictures / "failures.png"
    failure_cases(
        picture,
        failures,
        dataset.class_names,
        f"The worst test images of {method} at K = {key.shots}, draw 0. {_title(prepared)}",
    )
    analysis.exhibits.append(
        Exhibit(picture, f"the test images of lowest mIoU of `{method}` at K = {key.shots}, draw "
                         "0; errors are black, pixels of no class white")
    )  # fmt: skip


def worst_shown(images: Sequence[ShownImage]) -> list[ShownImage]:
    """The worst test images of a fit, worst first, of those that it kept: all of them are among.

    An image without a score is not among them.
    """
    scored = [image for image in images if image.miou is not None]
    return sorted(scored, key=lambda image: image.miou or 0.0)[:WORST]


def _attention(
    analysis: Analysis,
    prepared: Prepared,
    final: FinalBench,
    fits: Mapping[FitKey, dict[str, Any]],
    prompts: Mapping[FitKey, Prompts],
) -> None:
    key = _attending_fit(prepared, prompts)
    if key is None:
        analysis.record["attention"] = None
        analysis.missing.append("Attention: no method learns spatial prompts.")
        return
    images = final.pictured[:_ATTENTION_IMAGES]
    one_pass = fits[key]["hyperparameters"].get("decoding") == "one_pass"
    try:
        maps = [
            attention_maps(prepared, prompts[key], image_id, one_pass=one_pass)
            for image_id in images
        ]
    except AttentionUnavailableError as error:
        analysis.record["attention"] = None
        analysis.missing.append(f"Attention: {error}.")
        return
    rows = [row for of_image in maps for row in attention_rows(of_image)]
    analysis.record["attention"] = {
        "method": key.method,
        "shots": key.shots,
        "draw": key.draw,
        "images": list(images),
        "moved": float(np.mean([row["moved"] for row in rows])),
    }
    table, pictures = _tables(prepared) / "attention.csv", prepared.folder.pictures
    write_csv(table, rows)
    what = f"{key.method} at K = {key.shots}, draw {key.draw}"
    title = f"Attention of the spatial prompts, {what}. {_title(prepared)}"
    mean, each = pictures / "attention.png", pictures / "attention-prompts.png"
    mean_attention(mean, maps, title)
    prompt_attention(each, maps[0], f"{title}\nimage {images[0]}")
    where = (
        "attention from the spatial prompt tokens to the image cells in the decoder's last "
        "two-way layer, mean over heads and classes; 1 = as much as an even spread gives"
    )
    analysis.exhibits += [
        Exhibit(mean, f"where the prompts of `{key.method}` look, all together: {where}"),
        Exhibit(each, f"the same, prompt by prompt, on one image; the cross is the point of the "
                      f"default grid: {where}"),
        Exhibit(table, "by image and prompt: grid point (x, y), mean position of the attention, "
                       "its peak in times of an even spread (default and learned), and `moved`, "
                       "the share of attention that lies elsewhere than the default's"),
    ]  # fmt: skip


def _attending_fit(prepared: Prepared, prompts: Mapping[FitKey, Prompts]) -> FitKey | None:
    """The main method's fit, or that of another method with learned spatial prompts."""
    methods = prepared.config.study.methods
    shown = shown_fits(prepared.plan)
    for method in dict.fromkeys([main_method(methods), *reversed(methods)]):
        key = shown.get(method)
        if key is None:
            continue
        tensors = prompts.get(key, {})
        if METHODS[method].uses_support and (
            "resolved.spatial_weight" in tensors or "resolved.points" in tensors
        ):
            return key
    return None
