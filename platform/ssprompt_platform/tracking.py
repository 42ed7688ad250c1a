"""The only place that talks to MLflow, in the driver: a run per study, a child per trial."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ssprompt_core.methods import MethodSettings
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.storage import StudyFolder

# its first words on a new database are about tables, not about the study
logging.getLogger("mlflow.store").setLevel(logging.WARNING)

STUDY_TAG = "study.id"
KEY_TAG = "trial.key"
_LONGEST_VALUE = 6000
_LONGEST_BATCH = 1000


def tracking_uri(config: Config, folder: StudyFolder) -> str:
    """Where MLflow keeps its runs: as configured, or a sqlite file in the storage root."""
    return config.tracking.uri or f"sqlite:///{folder.root / 'mlflow.db'}"


class Tracker:
    """Runs of one study in MLflow; a run is found again by its tags and never made twice.

    Args:
        uri: Tracking server or database.
        experiment: Its name; made with ``artifacts`` as its place where it does not exist.
        artifacts: Folder of artifacts.
        study_id: Identity of the study.
        name: Name of the parent run.
        params: Flat parameters of the parent run.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifacts: Path,
        study_id: str,
        name: str,
        params: Mapping[str, Any],
    ) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._study_id = study_id
        known = self._client.get_experiment_by_name(experiment)
        self._experiment: str = (
            known.experiment_id
            if known
            else self._client.create_experiment(experiment, artifact_location=artifacts.as_uri())
        )
        self._open: dict[str, str] = {}
        self._epochs: dict[str, list[Metric]] = {}
        self.parent: str = self._start("study", name, params, parent=None)

    def started(self, trial: Suggestion) -> None:
        """Open the run of a search trial."""
        self._start(trial.key, trial.key, _trial_params(trial, "search"), parent=self.parent)
        self._epochs[trial.key] = []

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """Keep an epoch's values until the trial ends: one call a trial, not one an epoch."""
        for name in ("loss", "miou"):
            if name in metrics:
                value = float(metrics[name])
                self._epochs[trial.key].append(_metric(name, value, int(metrics["epoch"])))

    def ended(self, trial: Suggestion, value: float | None) -> None:
        """Write the epochs of a trial and close its run."""
        run = self._open.pop(trial.key)
        self._log(run, self._epochs.pop(trial.key))
        self._client.set_terminated(run, status="FAILED" if value is None else "FINISHED")

    def final(
        self,
        group: Group,
        row: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
        prompts: Sequence[Path],
    ) -> None:
        """Record the final fits of a method at a K as one child run, a step per draw."""
        key = f"{group.name}-final"
        best = Suggestion(group, 0, dict(row["best"]))
        params = {**_trial_params(best, "final"), "draws": len(records)}
        run = self._start(key, key, params, parent=self.parent)
        values = [_metric("test.miou", record["miou"], draw) for draw, record in enumerate(records)]
        values.append(_metric("test.miou.mean", row["mean"], 0))
        if row["ci95"]:
            values.append(_metric("test.miou.low", row["ci95"][0], 0))
            values.append(_metric("test.miou.high", row["ci95"][1], 0))
        for draw, record in enumerate(records):
            values += [
                _metric(f"loss.draw{draw}", entry["loss"], int(entry["epoch"]))
                for entry in record["history"]
                if entry["loss"] is not None
            ]
        self._log(run, values)
        for path in prompts:
            self._client.log_artifact(run, str(path), "prompts")
        self._client.set_terminated(self._open.pop(key), status="FINISHED")

    def finish(self, rows: Sequence[Mapping[str, Any]], files: Sequence[Path]) -> None:
        """Close the study's run with the means of all rows, results, pictures and tables."""
        self._log(
            self.parent,
            [_metric(f"{row['method']}.test.miou", row["mean"], row["shots"]) for row in rows],
        )
        for path in files:
            kind = {".png": "pictures", ".csv": "tables"}.get(path.suffix)
            self._client.log_artifact(self.parent, str(path), kind)
        self._client.set_terminated(self._open.pop("study"), status="FINISHED")

    def abandon(self, status: str) -> None:
        """Close every open run as ``FAILED`` or ``KILLED``."""
        for key, run in self._open.items():
            self._log(run, self._epochs.pop(key, []))
            self._client.set_terminated(run, status=status)
        self._open.clear()

    def _start(self, key: str, name: str, params: Mapping[str, Any], parent: str | None) -> str:
        found = self._find(key)
        if found is not None:
            # params were written when the run was made; MLflow refuses to change them
            run_id: str = found.info.run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            tags = {STUDY_TAG: self._study_id, KEY_TAG: key}
            if parent is not None:
                tags[MLFLOW_PARENT_RUN_ID] = parent
            run = self._client.create_run(self._experiment, run_name=name, tags=tags)
            run_id = run.info.run_id
            # in the parent's colour of the UI's own search: one tag per group
            self._client.log_batch(
                run_id,
                params=[Param(_name(k), str(v)[:_LONGEST_VALUE]) for k, v in params.items()],
                tags=[RunTag("kind", "study" if parent is None else str(params["kind"]))],
            )
        self._open[key] = run_id
        return run_id

    def _find(self, key: str) -> Run | None:
        query = f"tags.`{STUDY_TAG}` = '{self._study_id}' AND tags.`{KEY_TAG}` = '{key}'"
        runs = self._client.search_runs(
            [self._experiment], query, run_view_type=ViewType.ACTIVE_ONLY, max_results=1
        )
        return runs[0] if runs else None

    def _log(self, run: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _LONGEST_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + _LONGEST_BATCH])


def _trial_params(trial: Suggestion, kind: str) -> dict[str, Any]:
    """Flat parameters with the same keys on every child, as MLflow's comparisons want them."""
    known = dict.fromkeys(MethodSettings.__dataclass_fields__, "")
    return {
        "kind": kind,
        "method": trial.group.method,
        "shots": trial.group.shots,
        **known,
        **trial.hyperparameters,
    }


def _metric(name: str, value: float, step: int) -> Metric:
    # databases hold no infinities; NaN they keep as a flag of its own
    finite = math.copysign(1e300, value) if math.isinf(value) else value
    return Metric(_name(name), finite, int(time.time() * 1000), step)


def _name(text: str) -> str:
    """A name that MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", text)
