"""Turns finished fits into ``results.json``, pictures, MLflow runs and the printed summary."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ssprompt_platform.encode import Encoded
from ssprompt_platform.final import (
    FinalBench,
    load_predictions,
    prompts_path,
    read_fits,
)
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.analysis import Exhibit, analyse, index_path, shown_fits, write_index
from ssprompt_platform.report.figures import learning_curve, overlay
from ssprompt_platform.report.tables import (
    SCHEMA,
    best_table,
    draws_of,
    make_per_class,
    make_rows,
    score_table,
    versions,
)
from ssprompt_platform.scoring import ground_truth
from ssprompt_platform.storage import write_json
from ssprompt_platform.tracking import Tracker, tracking_uri

Outcome = dict[str, Any]


def publish(
    prepared: Prepared,
    final: FinalBench,
    encoded: Encoded,
    seconds: Mapping[str, float],
    tracker: Tracker,
) -> Outcome:
    """Write results and pictures, record them in MLflow, and return the results."""
    folder, plan, dataset = prepared.folder, prepared.plan, prepared.dataset
    fits = read_fits(plan, folder.fits)
    rows = make_rows(plan, fits, dataset.thing_classes)
    per_class = make_per_class(plan, fits, dataset.class_names, dataset.thing_classes)
    analysis = analyse(prepared, final, fits, rows, per_class)
    outcome: Outcome = {
        "schema": SCHEMA,
        "study": _study_record(prepared, final, encoded),
        "rows": rows,
        "per_class": per_class,
        "analysis": analysis.record,
        "versions": versions(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
    }
    exhibits = [*_pictures(prepared, final, rows), *analysis.exhibits]
    index = write_index(folder, exhibits, analysis.missing)
    write_json(folder.results, outcome)
    write_json(folder.latest, outcome)
    for group, row in zip(plan.groups, rows, strict=True):
        keys = [key for key in sorted(fits) if key.group == group]
        tracker.final(
            group,
            row,
            draws_of(group, fits),
            [prompts_path(folder.fits, key) for key in keys],
        )
    tracker.finish(rows, [folder.results, index, *(exhibit.path for exhibit in exhibits)])
    return outcome


def summarise(outcome: Outcome, console: Console) -> None:
    """Print the tables and where everything lies."""
    study = outcome["study"]
    title = (
        f"mIoU of {study['model']} on {study['test_images']} test images of {study['data']}: "
        f"mean [95 % confidence interval] over n support draws; fixed: sees no support image"
    )
    if not console.is_terminal:
        console.width = 240  # a file or a pipe has no width: tables take what they need
    console.print(f"\n{title}", highlight=False, markup=False, soft_wrap=True)
    console.print(score_table(outcome["rows"]))
    console.print("\nBest hyperparameters")
    console.print(best_table(outcome["rows"]))
    lines = {
        "selected on": study["selection"],
        "results": study["results"],
        "learned prompts": f"{study['prompts']}/*.safetensors",
        "analysis": study["analysis"],
        "pictures": study["pictures"],
        "MLflow UI": study["mlflow_command"],
        "seconds": f"{outcome['seconds']['total']:.0f}",
    }
    for name, value in lines.items():
        console.print(f"{name:<16} {value}", highlight=False, markup=False, soft_wrap=True)


def _study_record(prepared: Prepared, final: FinalBench, encoded: Encoded) -> dict[str, Any]:
    config, folder, plan, dataset = (
        prepared.config,
        prepared.folder,
        prepared.plan,
        prepared.dataset,
    )
    uri = tracking_uri(config, folder)
    return {
        "id": folder.study_id,
        "name": config.study.name,
        "methods": list(config.study.methods),
        "shots": sorted(config.study.shots),
        "draws": config.study.draws,
        "seed": config.study.seed,
        "selection": _selection(prepared),
        "trials": config.search.trials,
        "data": dataset.name,
        "classes": list(dataset.class_names),
        "train_pool": len(dataset.ids("train")),
        "test_images": len(plan.test_ids),
        "model": config.model.name,
        "text_encoder": config.model.text_encoder,
        "fingerprints": prepared.fingerprints,
        "embeddings": asdict(encoded),
        "workers": asdict(final.bench.resources),
        "results": str(folder.results),
        "prompts": str(folder.fits),
        "analysis": str(index_path(folder)),
        "pictures": str(folder.pictures),
        "mlflow_uri": uri,
        "mlflow_command": f"{Path(sys.executable).parent}/mlflow ui --backend-store-uri {uri}",
    }


def _selection(prepared: Prepared) -> str:
    """How hyperparameters were chosen, in words, so that the table can be judged."""
    config, plan = prepared.config, prepared.plan
    if not plan.searched:
        return "documented defaults, no search"
    if config.study.selection == "validation":
        return f"the whole validation split ({len(prepared.dataset.ids('val'))} labelled images)"
    counts = {k: len(ids) for (number, k), ids in plan.search_ids.items() if number == 0}
    listed = ", ".join(f"{counts[k]} images at K = {k}" for k in sorted(counts))
    return (
        f"min(K, 4) more labelled images per class from the train pool ({listed}; "
        f"{config.search.draws} support draw(s)); never the test split"
    )


def _pictures(prepared: Prepared, final: FinalBench, rows: list[dict[str, Any]]) -> list[Exhibit]:
    folder, plan, dataset = prepared.folder, prepared.plan, prepared.dataset
    curve = folder.pictures / "learning-curve.png"
    learning_curve(curve, rows, f"{dataset.name}, {prepared.config.model.name}: {folder.study_id}")
    exhibits = [
        Exhibit(
            curve,
            "mIoU on the test split over K: mean over draws with 95 % interval; broken lines are "
            "methods that learn nothing",
        )
    ]
    largest = max(group.shots for group in plan.groups)
    shown = shown_fits(plan)
    maps = {
        method: load_predictions(final.fits, shown[method])
        for method in prepared.config.study.methods
    }
    for image_id in final.pictured:
        path = folder.pictures / f"overlay-k{largest}-{_safe(image_id)}.png"
        overlay(
            path,
            dataset.image(image_id),
            ground_truth(final.bench, image_id),
            {method: of_image[image_id] for method, of_image in maps.items()},
            dataset.class_names,
        )
        exhibits.append(Exhibit(path, f"predictions of all methods at K = {largest}, draw 0"))
    return exhibits


def _safe(image_id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in image_id)
