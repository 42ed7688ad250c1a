"""The only place that talks to MLflow, in the driver: a run per study, a child per trial."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ssprompt_core.methods import MethodSettings
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.search.records import State
from ssprompt_platform.search.space import FIT_HYPERPARAMETERS
from ssprompt_platform.storage import StudyFolder

# its first words on a new database are about tables, not about the study
logging.getLogger("mlflow.store").setLevel(logging.WARNING)

STUDY_TAG = "study.id"
KEY_TAG = "trial.key"
STATE_TAG = "trial.state"
CAUSE_TAG = "trial.cause"
_LONGEST_VALUE = 6000
_MOST_METRICS = 1000
_MOST_PARAMS = 100
_EPOCH_VALUES = ("loss", "value", "miou")

Values = dict[tuple[str, int], float]
"""Metrics by name and step."""


def tracking_uri(config: Config, folder: StudyFolder) -> str:
    """Where MLflow keeps its runs: as configured, or a sqlite file in the storage root."""
    return config.tracking.uri or f"sqlite:///{folder.root / 'mlflow.db'}"


class Tracker:
    """Runs of one study in MLflow; a run is found again by its tags and never made twice.

    A driver may be killed between any two calls here. What is said again after that changes
    nothing: parameters that are missing are added, values that are there are not written again.

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
        self._found: set[str] = set()
        self._epochs: dict[str, Values] = {}
        self.parent: str = self._start("study", name, params, parent=None)

    def started(self, trial: Suggestion) -> None:
        """Open the run of a search trial."""
        self._start(trial.key, trial.key, _trial_params(trial, "search"), parent=self.parent)
        self._epochs[trial.key] = {}

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """Keep an epoch's values until the trial ends: one call a trial, not one an epoch.

        ``history``, which the last report has, replaces what was kept: it is whole even where an
        earlier driver saw the first epochs.
        """
        if "history" in metrics:
            self._epochs[trial.key] = _values(metrics["history"])
        elif "epoch" in metrics:
            self._epochs[trial.key] |= _values([metrics])

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        """Write the epochs of a trial and close its run; a duplicate, which did not run, has none.

        MLflow knows no pruned runs: such a run is finished, and its tag ``trial.state`` says so.
        """
        if state == "duplicate":
            return
        if trial.key not in self._open:
            self.started(trial)
        run, values = self._open.pop(trial.key), self._epochs.pop(trial.key)
        if state == "complete" and value is not None:
            values["miou", max((step for _, step in values), default=0)] = value
        self._log(run, values)
        tags = {STATE_TAG: state, **({CAUSE_TAG: cause} if cause else {})}
        self._client.log_batch(run, tags=[RunTag(k, v[:_LONGEST_VALUE]) for k, v in tags.items()])
        self._client.set_terminated(run, status="FAILED" if state == "failed" else "FINISHED")

    def final(
        self,
        group: Group,
        row: Mapping[str, Any],
        records: Sequence[Mapping[str, Any]],
        prompts: Sequence[Path],
    ) -> None:
        """Record the final fits of a method at a K as one child run, a step per draw.

        After an extension of the study other hyperparameters may be the chosen ones; the run of the
        former ones is deleted then, since MLflow changes no parameter.
        """
        key = f"{group.name}-final"
        params = _params(group, dict(row["best"]), "final")
        found = self._find(key)
        if found is not None and _differs(found.data.params, params):
            self._client.delete_run(found.info.run_id)
        run = self._start(key, key, params, parent=self.parent)
        draws = [int(record.get("draw", number)) for number, record in enumerate(records)]
        values: Values = {}
        for draw, record in zip(draws, records, strict=True):
            values["test.miou", draw] = record["miou"]
            for entry in record["history"]:
                if entry["loss"] is not None:
                    values[f"loss.draw{draw}", int(entry["epoch"])] = entry["loss"]
        values["test.miou.mean", 0] = row["mean"]
        if row["ci95"]:
            values["test.miou.low", 0], values["test.miou.high", 0] = row["ci95"]
        self._log(run, values)
        self._client.set_tag(run, "draws", str(len(records)))
        for path in prompts:
            self._client.log_artifact(run, str(path), "prompts")
        self._client.set_terminated(self._open.pop(key), status="FINISHED")

    def attach(self, report: Path) -> None:
        """Keep the report, a folder with its page, figures and tables, in the study's run."""
        self._client.log_artifacts(self.parent, str(report), "report")

    def finish(self, rows: Sequence[Mapping[str, Any]], files: Sequence[Path]) -> None:
        """Close the study's run with the means of all rows, results, pictures and tables."""
        self._log(
            self.parent, {(f"{row['method']}.test.miou", row["shots"]): row["mean"] for row in rows}
        )
        for path in files:
            kind = {".png": "pictures", ".csv": "tables"}.get(path.suffix)
            self._client.log_artifact(self.parent, str(path), kind)
        self._client.set_terminated(self._open.pop("study"), status="FINISHED")

    def abandon(self, status: str) -> None:
        """Close every open run as ``FAILED`` or ``KILLED``."""
        for key, run in self._open.items():
            self._log(run, self._epochs.pop(key, {}))
            self._client.set_terminated(run, status=status)
        self._open.clear()

    def _start(self, key: str, name: str, params: Mapping[str, Any], parent: str | None) -> str:
        found = self._find(key)
        wanted = {_name(k): str(v)[:_LONGEST_VALUE] for k, v in params.items()}
        # for the UI's own search: one value per kind of run
        tags = {"kind": "study" if parent is None else str(params["kind"])}
        if found is not None:
            run_id: str = found.info.run_id
            self._found.add(run_id)
            self._client.update_run(run_id, status="RUNNING")
            # the driver may have been killed between making the run and telling its parameters;
            # those that are there MLflow refuses to change: what an extension changes is a tag
            there = found.data.params
            changed = {k: v for k, v in wanted.items() if k in there and there[k] != v}
            tags |= {f"now.{name}": value for name, value in changed.items()}
            wanted = {name: value for name, value in wanted.items() if name not in there}
        else:
            identity = {STUDY_TAG: self._study_id, KEY_TAG: key}
            if parent is not None:
                identity[MLFLOW_PARENT_RUN_ID] = parent
            run_id = self._client.create_run(
                self._experiment, run_name=name, tags=identity
            ).info.run_id
        for tag_batch in _batches([RunTag(*pair) for pair in tags.items()], _MOST_PARAMS):
            self._client.log_batch(run_id, tags=tag_batch)
        for batch in _batches([Param(*pair) for pair in wanted.items()], _MOST_PARAMS):
            self._client.log_batch(run_id, params=batch)
        self._open[key] = run_id
        return run_id

    def _find(self, key: str) -> Run | None:
        query = f"tags.`{STUDY_TAG}` = '{self._study_id}' AND tags.`{KEY_TAG}` = '{key}'"
        runs = self._client.search_runs(
            [self._experiment], query, run_view_type=ViewType.ACTIVE_ONLY, max_results=1
        )
        return runs[0] if runs else None

    def _log(self, run: str, values: Values) -> None:
        """Write values but for those that the run has already."""
        metrics = [_metric(name, value, step) for (name, step), value in values.items()]
        there: Values = {}
        if run in self._found:
            for name in {metric.key for metric in metrics}:
                for known in self._client.get_metric_history(run, name):
                    there[name, known.step] = known.value
        new = [m for m in metrics if not _same(there.get((m.key, m.step)), m.value)]
        for batch in _batches(new, _MOST_METRICS):
            self._client.log_batch(run, metrics=batch)


def _trial_params(trial: Suggestion, kind: str) -> dict[str, Any]:
    return _params(trial.group, trial.hyperparameters, kind)


def _params(group: Group, hyperparameters: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Flat parameters with the same keys on every child, as MLflow's comparisons want them."""
    known = dict.fromkeys([*MethodSettings.__dataclass_fields__, *FIT_HYPERPARAMETERS], "")
    return {
        "kind": kind, "method": group.method, "shots": group.shots, **known, **hyperparameters,
    }  # fmt: skip


def _differs(there: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    return any(there.get(name, str(value)) != str(value) for name, value in wanted.items())


def _values(epochs: Iterable[Mapping[str, Any]]) -> Values:
    """What is shown of epochs; a diverged one may lack a value."""
    return {
        (name, int(entry["epoch"])): float(entry[name])
        for entry in epochs
        for name in _EPOCH_VALUES
        if entry.get(name) is not None
    }


def _same(there: float | None, value: float) -> bool:
    return there is not None and (there == value or (math.isnan(there) and math.isnan(value)))


def _batches(items: Sequence[Any], most: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def _metric(name: str, value: float, step: int) -> Metric:
    # databases hold no infinities; NaN they keep as a flag of its own
    finite = math.copysign(1e300, value) if math.isinf(value) else value
    return Metric(_name(name), finite, int(time.time() * 1000), step)


def _name(text: str) -> str:
    """A name that MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", text)
