"""What tests ask of a study that ran: of its folder, its MLflow runs and the labels it read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from ssprompt_platform.search.records import TrialRecord, read_trials
from ssprompt_platform.storage import StudyFolder

Labels = list[tuple[str, list[str]]]
"""Label files that were opened: stem of the file, and the functions that led there."""


def opened_labels(log: Path) -> Labels:
    """All that the fixture ``label_log`` holds so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(Path(place).stem, names) for place, *names in map(str.split, lines)]


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def fit_stamps(folder: StudyFolder) -> dict[str, int]:
    """When each final fit was finished."""
    return {path.stem: path.stat().st_mtime_ns for path in folder.fits.glob("[!.]*.json")}


def all_stamps(folder: StudyFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}


def trials_by_key(folder: StudyFolder) -> dict[str, TrialRecord]:
    return {trial.key: trial for trial in read_trials(folder)}


def client_of(folder: StudyFolder) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder.root / 'mlflow.db'}")


def runs_by_key(folder: StudyFolder, client: MlflowClient | None = None) -> dict[str, Run]:
    """MLflow's runs of a study; no key may occur twice."""
    client = client or client_of(folder)
    (experiment,) = client.search_experiments(filter_string="name = 'ssprompt'")
    query = f"tags.`study.id` = '{folder.study_id}'"
    runs = client.search_runs([experiment.experiment_id], query, max_results=1000)
    by_key = {run.data.tags["trial.key"]: run for run in runs}
    assert len(by_key) == len(runs)
    return by_key


def metrics_by_key(
    folder: StudyFolder, client: MlflowClient | None = None
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """All values of all runs but times, by step; one that was written twice shows."""
    client = client or client_of(folder)
    return {
        key: {
            name: sorted(
                (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
            if name != "fit.seconds"
        }
        for key, run in runs_by_key(folder, client).items()
    }


def epochs_of(folder: StudyFolder, key: str) -> list[int]:
    """Steps at which a trial's run has a loss, as they were written."""
    run = runs_by_key(folder)[key].info.run_id
    return [metric.step for metric in client_of(folder).get_metric_history(run, "train.loss")]


def assert_finished(runs: Mapping[str, Run], keys: list[str]) -> None:
    """Exactly these runs and the study's, all of them ended well."""
    assert sorted(runs) == sorted(["study", *keys])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
