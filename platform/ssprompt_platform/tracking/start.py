"""Begins the tracking of a study: checks the address, opens the journal, tells what is known."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config
from ssprompt_platform.explain import plan_facts, remarks
from ssprompt_platform.identity import flat_config
from ssprompt_platform.ownership import lost
from ssprompt_platform.plan import Group, StudyPlan
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.search.space import search_space
from ssprompt_platform.storage import StudyFolder, read_json
from ssprompt_platform.tracking.artifacts import keep_config, keep_split, to_yaml
from ssprompt_platform.tracking.datasets import dataset_inputs
from ssprompt_platform.tracking.dead import FOLDER, name_target
from ssprompt_platform.tracking.environment import commit, environment
from ssprompt_platform.tracking.results import SCORE, TEST, description
from ssprompt_platform.tracking.runs import STUDY
from ssprompt_platform.tracking.secrets import Censor
from ssprompt_platform.tracking.target import check_target, target_of
from ssprompt_platform.tracking.tracker import Tracker
from ssprompt_platform.tracking.view import TAG, view_key, view_state

_SOURCE = "jobs/tune_shots.py"


def check_tracking(config: Config, folder: StudyFolder) -> None:
    """Refuse an MLflow that is misspelt or, with ``tracking.must_answer``, does not answer.

    Raises:
        UserError: What is wrong, in one sentence.
    """
    tracking = config.tracking
    check_target(
        target_of(tracking.uri, tracking.experiment, folder.root),
        must_answer=tracking.must_answer,
    )


def start_tracker(prepared: Prepared, say: Callable[[str], None]) -> Tracker:
    """Open the study's run; needs the study's record, and that this process holds the study.

    Args:
        prepared: The study.
        say: Where warnings are shown.
    """
    config, folder, plan = prepared.config, prepared.folder, prepared.plan
    work, uid = folder.work / FOLDER, study_uid(folder)
    searched = {
        method: [name for name, values in space.items() if not values]
        for method, space in _spaces(config, plan).items()
    }
    target = target_of(config.tracking.uri, config.tracking.experiment, folder.root)
    name_target(work, target, folder.root)
    tracker = Tracker(
        folder,
        uid,
        target,
        name=folder.study_id,
        params={"kind": STUDY, **flat_config(config), **prepared.fingerprints},
        tags=_source_tags(config),
        searched=searched,
        shared=_shared(work, prepared),
        patience=config.tracking.patience,
        say=say,
        lost=lambda: lost(folder),
    )
    _tell_study(tracker, prepared, uid, searched)
    return tracker


def study_uid(folder: StudyFolder) -> str:
    """Identity of a study's folder; one of an earlier version has its beginning's time only."""
    record: dict[str, Any] = read_json(folder.record)
    return str(record.get("uid") or record["begun"])


def _shared(work: Path, prepared: Prepared) -> dict[int | str, str]:
    """Files beside the journal that all trials have a part of theirs from."""
    plan = prepared.plan
    files: dict[int | str, str] = {"": keep_config(work, Censor().tree(to_dict(prepared.config)))}
    for shots in {group.shots for group in plan.searched}:
        files[shots] = keep_split(work, Group("", shots), plan)
    return files


def _tell_study(
    tracker: Tracker, prepared: Prepared, uid: str, searched: dict[str, list[str]]
) -> None:
    """What is known before anything ran."""
    config, folder = prepared.config, prepared.folder
    facts = plan_facts(config, prepared.plan, prepared.dataset)
    report = str(folder.report / "index.html")
    said = description([], config.study.methods, facts, remarks(config, prepared.plan), report)
    tracker.note(STUDY, said)
    tracker.tag(STUDY, {"study.name": config.study.name})
    tracker.text(STUDY, "config.yaml", to_yaml(Censor().tree(to_dict(config))))
    tracker.text(STUDY, "environment.json", json.dumps(environment(), indent=1) + "\n")
    tracker.file(STUDY, folder.data_lock)
    tracker.event("dataset", key=STUDY, inputs=dataset_inputs(prepared.lock, config.data))
    names = list(dict.fromkeys(name for own in searched.values() for name in own))
    columns = [*(["method"] if len(config.study.methods) > 1 else []), "shots", *names]
    state = view_state(uid, columns, [SCORE, f"{TEST}.mean"])
    tracker.event("view", name=f"{TAG}{view_key(uid)}", state=state)


def _spaces(config: Config, plan: StudyPlan) -> dict[str, dict[str, bool]]:
    """Of each searched method its hyperparameters, and whether they have a single value."""
    return {
        method: {
            name: distribution.single()
            for name, distribution in search_space(
                method, config.search.space, config.train
            ).distributions.items()
        }
        for method in dict.fromkeys(group.method for group in plan.searched)
    }


def _source_tags(config: Config) -> dict[str, str]:
    """What MLflow's UI shows of a run's origin."""
    tags = {
        "mlflow.source.name": _SOURCE,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
    }
    found = commit()
    if found:
        tags["mlflow.source.git.commit"] = str(found["commit"])
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
