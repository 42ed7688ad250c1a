"""The runs of one study in MLflow: found before they are made, and told nothing twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssprompt_platform.tracking.names import (
    LONGEST_PARAM,
    LONGEST_TAG,
    MOST_METRICS,
    MOST_PARAMS,
    MOST_TAGS,
    batches,
    cut,
    finite,
    legal_name,
    same,
    text_batches,
)
from ssprompt_platform.tracking.state import Sent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STUDY = "study"
"""Key of the study's own run."""
STUDY_TAG = "study.id"
UID_TAG = "study.uid"
KEY_TAG = "trial.key"
JOURNALS_TAG = "tracking.journals"
"""Identities of all journals that runs of a study were made from."""
_PARENT = "mlflow.parentRunId"
_KILLED, _RUNNING = "KILLED", "RUNNING"
_DELETED = "deleted"


@dataclass(frozen=True)
class Identity:
    """Whose runs these are.

    Attributes:
        study_id: Of the study.
        uid: Of the study's folder: one that was deleted and begun anew has another.
        journal: Of the journal that they are told from.
    """

    study_id: str
    uid: str
    journal: str


@dataclass
class _Run:
    """What is known of a run that is open.

    Attributes:
        run_id: Its id.
        params: Parameters that it has.
        told: Its metrics by name and step.
        unread: Whether it may have metrics that were not read yet.
        read: Names of the metrics that were.
    """

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    told: dict[tuple[str, int], float] = field(default_factory=dict)
    unread: bool = False
    read: set[str] = field(default_factory=set)


@dataclass
class _Values:
    """What is to be told of a run in as few requests as can be."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, int, float, int]] = field(default_factory=list)
    again: set[tuple[str, int]] = field(default_factory=set)


class Runs:
    """Applies events to MLflow. Told again, they change nothing.

    A run is looked up by the tags of study and trial before it is made. Only where it cannot be
    there is that left out: the study's own run was made here, or this journal alone ever made
    runs of the study and the event is of this process. A run that another process made is read
    before anything is added: its parameters, and of each metric that is told the steps it has.

    Args:
        client: Of MLflow.
        experiment: Id of the experiment.
        identity: Whose runs.
        sent: What was told before.
        new_from: Position in the journal from which on events are of this process.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, identity: Identity, sent: Sent, new_from: int
    ) -> None:
        self._client, self._experiment = client, experiment
        self._identity, self._sent, self._new_from = identity, sent, new_from
        self._open: dict[str, _Run] = {}
        self._unsure: set[str] = set()
        self._made_study = False
        self._alone = False

    def begin(self) -> None:
        """Compare with what MLflow has of the study; where it has lost it, all is told again."""
        known = self._sent.run(STUDY)
        if known is None:
            return
        run = self._read(known)
        if run is None:
            self._sent.forget()
        else:
            self._sign(run)

    def apply(self, key: str, events: Iterable[tuple[dict[str, Any], int]]) -> None:
        """Tell MLflow events of one run, in their order; each with its position."""
        values = _Values()
        for event, position in events:
            kind = event["event"]
            if kind == "run":
                self._flush(key, values)
                values = self._begin_run(key, event, position)
            elif kind == "metrics":
                for name, step, value, *at in event["values"]:
                    told = (legal_name(name), int(step))
                    when = int(at[0] if at else event["at"])
                    values.metrics.append((*told, finite(float(value)), when))
                    if event.get("again"):
                        values.again.add(told)
            elif kind == "tags":
                values.tags |= event["tags"]
            elif kind == "end":
                self._flush(key, values)
                values = _Values()
                self._end(key, str(event["status"]), int(event["at"]))
        self._flush(key, values)

    def run_id(self, key: str) -> str | None:
        """Id of a run, if it was made."""
        return self._sent.run(key)

    def close_left_open(self, at: int) -> list[str]:
        """Mark the runs of a process that died as killed, at the time of its last event (ms).

        One that has an end already was ended elsewhere.

        Returns:
            Keys of those that were marked.
        """
        killed = []
        for key, run_id in self._sent.open_runs().items():
            run = self._read(run_id)
            if run is not None and run.info.status == _RUNNING:
                self._terminate(run_id, _KILLED, at)
                killed.append(key)
            self._sent.keep(key, run_id, is_open=False)
            self._open.pop(key, None)
        return killed

    def _begin_run(self, key: str, event: Mapping[str, Any], position: int) -> _Values:
        """Make a run or take it up again; returns what it still lacks."""
        params = {legal_name(k): cut(v, LONGEST_PARAM) for k, v in event["params"].items()}
        tags = dict(event["tags"])
        run = self._open.get(key)
        if run is None:
            found = self._look_up(key, position)
            if found is not None and event.get("replace") and _differs(found.data.params, params):
                # MLflow changes no parameter: what was chosen before has no place any more
                if found.info.lifecycle_stage != _DELETED:
                    self._client.delete_run(found.info.run_id)
                found = None
            run = self._make(key, event, tags) if found is None else self._take_up(found)
            if found is None:
                tags = {}
            self._open[key] = run
            self._sent.keep(key, run.run_id, is_open=True)
        changed = {k: v for k, v in params.items() if run.params.get(k, v) != v}
        tags |= {f"now.{name}": value for name, value in changed.items()}
        missing = {name: value for name, value in params.items() if name not in run.params}
        return _Values(params=missing, tags=tags)

    def _look_up(self, key: str, position: int) -> Run | None:
        known = self._sent.run(key)
        found_again = None if known is None else self._read(known)
        if found_again is not None:
            return found_again
        new = self._made_study or (self._alone and position >= self._new_from)
        if new and key not in self._unsure:
            return None
        identity = self._identity
        query = " AND ".join(
            f"tags.`{name}` = '{value}'"
            for name, value in (
                (UID_TAG, identity.uid), (STUDY_TAG, identity.study_id), (KEY_TAG, key),
            )
        )  # fmt: skip
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found and key == STUDY:
            self._sign(found[0])
        return found[0] if found else None

    def _read(self, run_id: str) -> Run | None:
        """A run by its id, deleted or not; None where MLflow has none, not even a deleted one."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _make(self, key: str, event: Mapping[str, Any], tags: Mapping[str, str]) -> _Run:
        # its answer may get lost
        self._unsure.add(key)
        identity = self._identity
        own = {STUDY_TAG: identity.study_id, UID_TAG: identity.uid, KEY_TAG: key}
        if key == STUDY:
            own[JOURNALS_TAG] = identity.journal
        else:
            parent = self._sent.run(STUDY)
            if parent is not None:
                own[_PARENT] = parent
        told = {legal_name(k): cut(v, LONGEST_TAG) for k, v in {**tags, **own}.items()}
        made = self._client.create_run(
            self._experiment, start_time=int(event["at"]), tags=told, run_name=event["name"]
        )
        self._unsure.discard(key)
        self._made_study |= key == STUDY
        return _Run(made.info.run_id)

    def _take_up(self, found: Run) -> _Run:
        run_id = found.info.run_id
        if found.info.lifecycle_stage == _DELETED:
            # someone deleted it, and the study goes on
            self._client.restore_run(run_id)
        if found.info.status != _RUNNING:
            self._client.update_run(run_id, status=_RUNNING)
        return _Run(run_id, params=dict(found.data.params), unread=True)

    def _sign(self, study: Run) -> None:
        """Note that this journal makes runs of the study; learn whether others did."""
        names = [name for name in study.data.tags.get(JOURNALS_TAG, "").split(",") if name]
        self._alone = names == [self._identity.journal]
        if self._identity.journal not in names:
            names.append(self._identity.journal)
            if study.info.lifecycle_stage != _DELETED:
                self._client.set_tag(study.info.run_id, JOURNALS_TAG, ",".join(names))

    def _flush(self, key: str, values: _Values) -> None:
        if not (values.params or values.tags or values.metrics):
            return
        from mlflow.entities import Metric, Param, RunTag

        run = self._of(key)
        metrics = self._untold(run, values)
        params = list(text_batches(list(values.params.items()), MOST_PARAMS))
        legal = [(legal_name(k), cut(v, LONGEST_TAG)) for k, v in values.tags.items()]
        tags = list(text_batches(legal, MOST_TAGS))
        parts = list(batches(metrics, MOST_METRICS - MOST_PARAMS - MOST_TAGS))
        for number in range(max(len(params), len(tags), len(parts))):
            some = [_at(part, number) for part in (params, tags, parts)]
            self._client.log_batch(
                run.run_id,
                params=[Param(*pair) for pair in some[0]],
                tags=[RunTag(*pair) for pair in some[1]],
                metrics=[Metric(name, value, at, step) for name, step, value, at in some[2]],
                synchronous=True,
            )
        run.params |= values.params
        run.told |= {(name, step): value for name, step, value, _ in metrics}

    def _untold(self, run: _Run, values: _Values) -> list[tuple[str, int, float, int]]:
        """Metrics that the run does not have; what is told again counts where it changed."""
        told = dict(run.told)
        new = []
        for name, step, value, at in values.metrics:
            if run.unread and name not in run.read:
                run.read.add(name)
                history = self._client.get_metric_history(run.run_id, name)
                history.sort(key=lambda known: known.timestamp)
                read = {(name, known.step): known.value for known in history}
                run.told |= read
                told = {**read, **told}
            known_value = told.get((name, step))
            if known_value is not None and (
                (name, step) not in values.again or same(known_value, value)
            ):
                continue
            told[name, step] = value
            new.append((name, step, value, at))
        return new

    def _of(self, key: str) -> _Run:
        """A run that was begun before, perhaps by another process."""
        if key not in self._open:
            known = self._sent.run(key)
            if known is None:
                raise LookupError(f"the run '{key}' was never made")
            found = self._client.get_run(known)
            self._open[key] = _Run(known, params=dict(found.data.params), unread=True)
        return self._open[key]

    def _end(self, key: str, status: str, at: int) -> None:
        run_id = self._of(key).run_id
        self._terminate(run_id, status, at)
        self._sent.keep(key, run_id, is_open=False)
        del self._open[key]

    def _terminate(self, run_id: str, status: str, at: int) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_terminated(run_id, status=status, end_time=at)
        except MlflowException:
            if self._client.get_run(run_id).info.lifecycle_stage != _DELETED:
                raise


def _at(parts: Sequence[Sequence[Any]], number: int) -> Sequence[Any]:
    return parts[number] if number < len(parts) else ()


def _differs(there: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return any(there.get(name, value) != value for name, value in wanted.items())
