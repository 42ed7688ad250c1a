"""Trials of a study as its Optuna storage keeps them: what tables, pictures and MLflow show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.pool import NullPool

from ssprompt_platform.storage import S3Path, StudyFolder, write_whole

State = Literal["complete", "pruned", "failed", "duplicate", "running"]

SHOTS = "shots"
"""Name of K among the parameters of a study in which K is searched."""

# user attributes of an Optuna trial and of an Optuna study
SECONDS = "seconds"
SCORES = "scores"
CAUSE = "cause"
DUPLICATE_OF = "duplicate_of"
LABELLED = "labelled_images"
METHOD = "method"

_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@dataclass(frozen=True)
class TrialRecord:
    """One trial of the search.

    Attributes:
        study: Name of its Optuna study without the study's id: ``spa-k4``, or ``spa-pareto``.
        number: Its number there.
        method: Its method.
        shots: Its K.
        state: How it ended; a ``duplicate`` was not run, an equal one before it was.
        value: mIoU on the selection images, mean over the search's draws; of a pruned trial the
            last value it was judged by; None where it failed or runs.
        params: Its hyperparameters, without K.
        scores: mIoU of each support draw that it finished.
        rungs: The values it was judged by: by epoch, or by number of draws.
        seconds: Time in a worker, over all parts of an interrupted trial.
        cause: Why it failed.
        duplicate_of: Number of the equal trial before it.
        labelled: Labelled images that its K stands for (mean over the search's draws).
        begun: When it was proposed.
        ended: When it ended.
    """

    study: str
    number: int
    method: str
    shots: int
    state: State
    value: float | None
    params: dict[str, Any]
    scores: tuple[float, ...]
    rungs: dict[int, float]
    seconds: float | None
    cause: str | None
    duplicate_of: int | None
    labelled: float | None
    begun: datetime | None
    ended: datetime | None

    @property
    def key(self) -> str:
        """Identity of the trial within its study, the same after every restart."""
        return f"{self.study}-t{self.number:03d}"


def open_storage(database: Path) -> optuna.storages.RDBStorage:
    """The Optuna storage of a study, to read; it holds no file open between two questions."""
    return optuna.storages.RDBStorage(f"sqlite:///{database}", {"poolclass": NullPool})


def read_trials(folder: StudyFolder) -> list[TrialRecord]:
    """Every trial of a study so far, by Optuna study and number; none where there was no search."""
    return [
        _record(name, facts, trial)
        for name, study in read_studies(folder).items()
        for facts in [study.user_attrs]  # a query each time
        for trial in study.get_trials(deepcopy=False)
    ]


def read_studies(folder: StudyFolder) -> dict[str, optuna.Study]:
    """The Optuna studies of a study by their names without the study's id."""
    if not folder.optuna_copy.is_file():
        return {}
    database = folder.optuna
    if isinstance(folder.optuna_copy, S3Path):
        # whoever runs the study has a database of its own on this machine, or on another
        database = folder.work / "read" / folder.optuna.name
        write_whole(database, folder.optuna_copy.download)
    storage = open_storage(database)
    # a folder that was renamed still holds the studies of its former id
    return {
        name.partition("/")[2]: optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
    }


def _record(name: str, facts: Mapping[str, Any], trial: FrozenTrial) -> TrialRecord:
    attributes, params = trial.user_attrs, dict(trial.params)
    shots = params.pop(SHOTS, None) or facts[SHOTS]
    duplicate_of = attributes.get(DUPLICATE_OF)
    values = trial.values or [None]
    return TrialRecord(
        study=name,
        number=trial.number,
        method=facts[METHOD],
        shots=int(shots),
        state=_STATES[trial.state] if duplicate_of is None else "duplicate",
        value=values[0],
        params=params,
        scores=tuple(attributes.get(SCORES, ())),
        rungs=dict(trial.intermediate_values),
        seconds=attributes.get(SECONDS),
        cause=attributes.get(CAUSE),
        duplicate_of=duplicate_of,
        labelled=attributes.get(LABELLED),
        begun=trial.datetime_start,
        ended=trial.datetime_complete,
    )
