"""Turns a study's folder into ``results.json``, its report, MLflow runs and the printed summary."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ssprompt_platform.encoded import Encoded
from ssprompt_platform.final import FinalBench
from ssprompt_platform.fit_files import load_shown
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.analysis import Exhibit, analyse, index_path, shown_fits, write_index
from ssprompt_platform.report.figures import learning_curve, overlay
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.report.page import write_page
from ssprompt_platform.report.parquet import write_tables
from ssprompt_platform.report.printed import from_here, print_results
from ssprompt_platform.report.results import results_of
from ssprompt_platform.report.tables import versions
from ssprompt_platform.sentences import say
from ssprompt_platform.storage import S3Path, safe_name, write_json
from ssprompt_platform.tracking import Tracker
from ssprompt_platform.tracking.record import record_study

Outcome = dict[str, Any]


def publish(
    prepared: Prepared,
    final: FinalBench,
    encoded: Encoded,
    seconds: Mapping[str, float],
    tracker: Tracker,
) -> Outcome:
    """Write results, pictures and the report, record them in MLflow, and return the results."""
    folder = prepared.folder
    data = gather(folder)
    analysis = analyse(prepared, final, data.fits, data.rows, data.per_class)
    outcome = results_of(data)
    outcome["study"] |= {**_run_record(prepared, final, encoded), **tracker.where()}
    outcome |= {
        "analysis": analysis.record,
        "versions": versions(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
    }
    exhibits = [*_pictures(prepared, final, data), *analysis.exhibits]
    index = write_index(folder, exhibits, analysis.missing, data.remarks)
    write_json(folder.results, outcome)
    write_json(folder.latest, outcome)
    write_tables(data)
    write_page(data)
    pictures = [exhibit.path for exhibit in exhibits]
    record_study(tracker, prepared, final, data, [folder.results, index, *pictures])
    return outcome


def summarise(outcome: Outcome, console: Console) -> None:
    """Print the tables, what they say, and where everything lies."""
    study = outcome["study"]
    print_results(console, outcome)
    say(console)
    for name, value in {
        "report": study["report"],
        "results": study["results"],
        "learned prompts": f"{study['prompts']}/*.safetensors",
        "analysis": study["analysis"],
        "MLflow UI": study["mlflow_command"],
        **({"MLflow view": study["mlflow_view"]} if study["mlflow_view"] else {}),
        "report again": study["report_command"],
        "seconds": f"{outcome['seconds']['total']:.0f}",
    }.items():
        say(console, f"{name:<16} {from_here(value)}")


def _run_record(prepared: Prepared, final: FinalBench, encoded: Encoded) -> dict[str, Any]:
    """What the run that ended the study adds: its workers, and where things lie."""
    folder = prepared.folder
    python = Path(sys.executable)
    report = [str(python), "jobs/report.py", str(folder.path)]
    if isinstance(folder.path, S3Path):
        # a page in a bucket is not opened by a click
        report += ["--output", f"{folder.study_id}-report"]
    return {
        "embeddings": asdict(encoded),
        "workers": asdict(final.bench.resources),
        "results": str(folder.results),
        "report": str(folder.report / "index.html"),
        "prompts": str(folder.fits),
        "analysis": str(index_path(folder)),
        "pictures": str(folder.pictures),
        "report_command": shlex.join(report),
    }


def _pictures(prepared: Prepared, final: FinalBench, data: StudyData) -> list[Exhibit]:
    folder = prepared.folder
    if not data.rows:
        return []
    curve = folder.pictures / "learning-curve.png"
    learning_curve(curve, data.rows, f"{data.facts['data']}, {data.facts['model']}: {data.id}")
    exhibits = [
        Exhibit(
            curve,
            "mIoU on the test split over K: mean over draws with 95 % interval; broken lines are "
            "methods that learn nothing",
        )
    ]
    return exhibits + _overlays(prepared, final, data)


def _overlays(prepared: Prepared, final: FinalBench, data: StudyData) -> list[Exhibit]:
    """The pictured test images with every method's prediction, as the final fits kept them."""
    folder, plan = prepared.folder, prepared.plan
    largest = max(group.shots for group in plan.groups)
    shown = {
        method: {image.image_id: image for image in load_shown(folder.fits, key)}
        for method, key in shown_fits(plan).items()
        if key in data.fits
    }
    exhibits = []
    for image_id in final.pictured:
        of_image = {m: images[image_id] for m, images in shown.items() if image_id in images}
        if not of_image:
            continue
        first = next(iter(of_image.values()))
        path = folder.pictures / f"overlay-k{largest}-{safe_name(image_id)}.png"
        predicted = {method: image.predicted for method, image in of_image.items()}
        overlay(path, first.image, first.truth, predicted, data.facts["classes"])
        exhibits.append(Exhibit(path, f"predictions of all methods at K = {largest}, draw 0"))
    return exhibits
