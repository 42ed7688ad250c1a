"""A study in words: what is done, on which images anything is selected or scored, what to mind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config
from ssprompt_platform.encoded import missing_images
from ssprompt_platform.plan import StudyPlan
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.protocol import (
    images,
    joined,
    one_left_out,
    protocol,
    score_counts,
    shots_of,
    time_budget,
)

__all__ = ["explain", "plan_facts", "protocol", "remarks"]


def remarks(config: Config, plan: StudyPlan) -> list[str]:
    """What every table and figure of a study must say, because it limits what they show."""
    said = []
    search = config.search
    if plan.searched:
        if config.study.selection == "holdout":
            said.append(
                "Hyperparameters are chosen on a holdout of "
                f"{images(score_counts(plan, max(config.study.shots)))} beyond the K shots, so "
                "the table shows more than K labelled images per class can give."
            )
        said += _noisy(config, plan)
        if search.budget.minutes or search.budget.gpu_hours:
            said.append(
                "The search may be ended by time "
                f"({joined(time_budget(config))}), so a repetition may try another number of "
                "settings and choose otherwise."
            )
    if config.study.draws == 1 and any(METHODS[m].uses_support for m in config.study.methods):
        said.append("Each score is of one support draw: it has no interval.")
    return said


def explain(prepared: Prepared) -> list[str]:
    """What a study will do, line by line, before anything is done."""
    config, plan, dataset = prepared.config, prepared.plan, prepared.dataset
    used = plan.image_ids()
    missing = missing_images(dataset, used, prepared.store)
    begun = prepared.folder.record.is_file()
    where = (
        f"Study {prepared.folder.study_id} in {prepared.folder.path} was begun and goes on."
        if begun
        else f"A new study will be kept in {prepared.folder.path}."
    )
    lines = ["What will happen", f"  {where}"]
    lines += [f"  {sentence}" for sentence in protocol(config, plan, dataset)]
    lines.append(
        f"  The frozen image encoder sees {len(missing)} images; of {len(used)} that are used, "
        f"{len(used) - len(missing)} are stored already."
    )
    said = remarks(config, plan)
    if said:
        lines += ["What every table will say", *(f"  {sentence}" for sentence in said)]
    lines.append("Labelled images by K and draw")
    for k in sorted(set(config.study.shots)):
        for number, draw in enumerate(plan.draws):
            what = f"fitted on {images([len(draw.support[k])])}"
            folds = plan.folds.get((number, k), ())
            if folds:
                scored = len({i for fold in folds for i in fold.score_ids})
                how = f" in {len(folds)} folds of the same" if len(folds) > 1 else ""
                what += f", settings selected on {images([scored])}{how}"
            lines.append(f"  K = {k}, draw {number}: {what}")
    lines.append(f"Scored on {len(plan.test_ids)} test images, once in each final fit")
    return lines


def plan_facts(config: Config, plan: StudyPlan, dataset: SegmentationDataset) -> dict[str, Any]:
    """What tables and pictures need to know of data and plan, for ``study.json``."""
    shots = sorted(set(config.study.shots))
    return {
        "data": dataset.name,
        "classes": list(dataset.class_names),
        "things": sorted(dataset.thing_classes),
        "train_pool": len(dataset.ids("train")),
        "test_images": len(plan.test_ids),
        "test_ids": list(plan.test_ids),
        "labelled": {str(k): plan.labelled[k] for k in shots},
        "support_images": {str(k): [len(draw.support[k]) for draw in plan.draws] for k in shots},
        "model": config.model.name,
        "text_encoder": config.model.text_encoder,
        "groups": [[group.method, group.shots] for group in plan.groups],
        "fits": [[key.method, key.shots, key.draw] for key in plan.fits],
        "searched": [[group.method, group.shots] for group in plan.searched],
    }


def _noisy(config: Config, plan: StudyPlan) -> Iterable[str]:
    """Where cross-validation leaves one image out, it leaves little to go by."""
    if config.study.selection != "cv":
        return
    alone = [k for k in sorted(set(config.study.shots)) if any(one_left_out(plan, k))]
    if alone:
        counts = [count for k in alone for count in score_counts(plan, k)]
        yield (
            f"With {shots_of(alone)} hyperparameters are chosen by leave-one-out over only "
            f"{images(counts)}, some classes of which no other image may show, so the choice is "
            "noisy."
        )
