"""What a finished study tells: final fits with their files, results, report and the best model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssprompt_platform.config.load import to_dict
from ssprompt_platform.final import FinalBench
from ssprompt_platform.fit_files import load_shown, prompts_path
from ssprompt_platform.plan import Group
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.tables import draws_of
from ssprompt_platform.search.records import TrialRecord
from ssprompt_platform.storage import Place
from ssprompt_platform.tracking.artifacts import (
    final_split,
    setting_yaml,
    to_yaml,
    write_overlays,
    write_per_class,
)
from ssprompt_platform.tracking.model import model_name
from ssprompt_platform.tracking.results import cell, class_values, description
from ssprompt_platform.tracking.runs import STUDY
from ssprompt_platform.tracking.secrets import Censor
from ssprompt_platform.tracking.tracker import Tracker

CHOSEN_BY = "mIoU on the selection images, at the largest K"


def record_study(
    tracker: Tracker,
    prepared: Prepared,
    final: FinalBench,
    data: StudyData,
    files: Sequence[Place],
) -> None:
    """Tell the results and close the study's run.

    Args:
        tracker: Of the study.
        prepared: The study; its plan has the groups that were fitted.
        final: Which fits pictures show.
        data: All that was found.
        files: Files that the study's run keeps besides its report.
    """
    folder = prepared.folder
    tracker.note(STUDY, _description(data))
    for row in data.rows:
        _record_final(tracker, prepared, final, data, row)
    tracker.tree(STUDY, folder.report, "report")
    for place in files:
        kind = {".png": "pictures", ".csv": "tables"}.get(place.suffix, "")
        tracker.file(STUDY, place, kind)
    _register(tracker, prepared, data)
    tags = {"incomplete": " ".join(data.missing)} if data.missing else {}
    tracker.finish(data.rows, tags)


def best_group(groups: Sequence[Group], trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial whose method and K make the best model, by scores of the search alone.

    Scores at different K are of different images; so the largest K counts that has a score, since
    more labels are what one would use, and at it the method with the best one.

    Args:
        groups: Methods and K that were fitted.
        trials: All trials of the search.
    """
    scored = [
        trial
        for trial in trials
        if trial.state == "complete"
        and trial.value is not None
        and Group(trial.method, trial.shots) in groups
    ]
    # of equal ones the first in the order of the search
    return max(scored, key=lambda trial: (trial.shots, trial.value or 0.0), default=None)


def _record_final(
    tracker: Tracker,
    prepared: Prepared,
    final: FinalBench,
    data: StudyData,
    row: Mapping[str, Any],
) -> None:
    group = Group(row["method"], row["shots"])
    records = draws_of(group, data.fits)
    key = tracker.final(group, row, records)
    names = data.facts["classes"]
    tracker.metrics(key, class_values(names, records))
    tracker.note(
        key,
        f"{group.method} at K = {group.shots}: mIoU on the test images {cell(row)} over "
        f"{len(records)} support draws; step = draw.",
    )
    own = [fit for fit in sorted(data.fits) if fit.group == group]
    config = to_yaml(Censor().tree(to_dict(prepared.config)))
    tracker.text(key, "config.yaml", config + setting_yaml(group, row["best"], "final"))
    tracker.text(key, "split.json", final_split(group, prepared.plan))
    for fit in own:
        tracker.file(key, prompts_path(final.fits, fit), "prompts")
    work = tracker.work / "files" / group.name
    for path in write_per_class(work, group, records, names):
        tracker.file(key, path)
    for fit in own:
        if final.shows(fit):
            for path in write_overlays(work / "overlays", load_shown(final.fits, fit)):
                tracker.file(key, path, "overlays")
    tracker.close_final(key)


def _absolute(path: str | None) -> str | None:
    """The same file wherever what tells it stands."""
    return str(Path(path).expanduser().absolute()) if path else None


def _description(data: StudyData) -> str:
    methods = list(dict.fromkeys(group.method for group in data.groups))
    place = str(data.folder.report / "index.html")
    return description(data.rows, methods, data.facts, data.remarks, place)


def _register(tracker: Tracker, prepared: Prepared, data: StudyData) -> None:
    """Name the prompts that become a version of the registered model."""
    config = prepared.config
    best = best_group(prepared.plan.groups, data.trials)
    if not config.tracking.register or best is None:
        return
    group = Group(best.method, best.shots)
    own = [fit for fit in sorted(data.fits) if fit.group == group]
    row = next((row for row in data.rows if Group(row["method"], row["shots"]) == group), None)
    if not own or row is None:
        return
    # its draw is the first one: draws have no selection scores, and test scores choose nothing
    fit, name = own[0], model_name(config.tracking.model, config.study.name)
    tags = {
        "study.id": data.id,
        "method": group.method,
        "shots": str(group.shots),
        "draw": str(fit.draw),
        "selection.miou": f"{best.value:.6g}",
        "test.miou": f"{data.fits[fit]['miou']:.6g}",
        "test.miou.mean": f"{row['mean']:.6g}",
        "chosen.by": CHOSEN_BY,
    }
    tracker.event(
        "model",
        key=STUDY,
        name=name,
        prompts=str(prompts_path(prepared.folder.fits, fit)),
        checkpoint=_absolute(config.model.checkpoint),
        study=data.id,
        tags=tags,
        about=(
            f"{group.method} at K = {group.shots}, draw {fit.draw} of the study {data.id}; chosen "
            f"by {CHOSEN_BY}"
        ),
        about_name=f"Learned prompts of studies named {config.study.name}",
    )
