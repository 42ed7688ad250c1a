"""What a study tells of itself: every call writes to the journal and returns at once."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.search.records import State
from ssprompt_platform.storage import Place, StudyFolder
from ssprompt_platform.tracking.artifacts import setting_yaml
from ssprompt_platform.tracking.dead import FOLDER, ROOT_TAG, chores, root_tag
from ssprompt_platform.tracking.delivery import Delivery, waiting
from ssprompt_platform.tracking.journal import Journal, number
from ssprompt_platform.tracking.results import (
    SCORE,
    Values,
    epoch_values,
    final_values,
    run_params,
    short,
)
from ssprompt_platform.tracking.runs import STUDY
from ssprompt_platform.tracking.secrets import Censor
from ssprompt_platform.tracking.sender import Sender
from ssprompt_platform.tracking.target import Target
from ssprompt_platform.tracking.view import view_link

STATE_TAG = "trial.state"
CAUSE_TAG = "trial.cause"
DIFFERS_TAG = "differs"
NOTE_TAG = "mlflow.note.content"
_LOCAL_UI = "http://127.0.0.1:5000"
_LAST_PATIENCE = 10.0
"""Seconds that a study which is stopped, or failed, waits for the delivery of its end."""


class Tracker:
    """Runs of one study, in a journal that one thread tells MLflow.

    No call waits for MLflow or fails with it. A driver may be killed between any two calls: what
    was written is told by the next process, and what is said again then changes nothing.

    Used as a context: an exception closes all open runs as ``FAILED`` (``KILLED`` where the study
    was interrupted), and the end of the block waits for the delivery, as long as it gets on.

    Args:
        folder: Of the study.
        uid: Identity of that folder: another one after it was deleted and begun again.
        target: The MLflow.
        name: Name of the study's run.
        params: Flat parameters of the study's run.
        tags: Tags that all runs of the study have.
        searched: Of each method the hyperparameters that differ between its trials.
        shared: Of each K the file of its split, and the file of the study's configuration
            (``""``), both beside the journal; without them trials keep no files.
        patience: Seconds to wait at the end without any progress.
        say: Where a warning is shown.
        lost: Whether another process took the study meanwhile: its runs are that one's then.
    """

    def __init__(
        self,
        folder: StudyFolder,
        uid: str,
        target: Target,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        searched: Mapping[str, Sequence[str]] | None = None,
        shared: Mapping[int | str, str] | None = None,
        patience: float = 60.0,
        say: Callable[[str], None] = lambda text: None,
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self._patience, self._say, self._lost = folder, patience, say, lost
        self._target, self._uid = target, uid
        self._searched, self._shared = dict(searched or {}), dict(shared or {})
        self._censor = Censor()
        self._trials: dict[str, dict[tuple[str, int], int]] = {}
        self._running: list[str] = []
        self.work = folder.work / FOLDER
        self._journal = Journal(self.work, uid)
        begin = self._journal.size
        self._journal.append("session")
        self._tags = dict(tags or {})
        self._begin(STUDY, name, params, {"kind": "study", ROOT_TAG: root_tag(folder.root)})
        self._delivery = Delivery(self.work, target, folder.study_id, begin)
        self._sender = Sender(
            self._delivery, say, lambda delivery: chores(folder.root, folder, delivery)
        )

    def started(self, trial: Suggestion) -> None:
        """A search trial begins, or goes on."""
        group = trial.group
        params = run_params(group, trial.hyperparameters, "search")
        tags = {"kind": "search", DIFFERS_TAG: self._differing(group, trial.hyperparameters)}
        self._begin(trial.key, trial.key, params, tags)
        self._trials[trial.key] = {}
        config, split = self._shared.get(""), self._shared.get(group.shots)
        if config and split:
            text = self._censor.text(setting_yaml(group, trial.hyperparameters, "trial"))
            self._add("trial", key=trial.key, config=config, split=split, text=text)

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        """An epoch's values; ``history``, which the last report has, has all epochs.

        A driver that took a trial up tells the epochs that an earlier one saw: they are told to
        MLflow where it lacks them.
        """
        if "history" in metrics:
            self._tell(trial.key, epoch_values(metrics["history"]))
        elif "epoch" in metrics:
            self._tell(trial.key, epoch_values([metrics]))

    def ended(
        self, trial: Suggestion, state: State, value: float | None, cause: str | None
    ) -> None:
        """Close the run of a trial; a duplicate, which did not run, has none.

        MLflow knows no pruned runs: such a run is finished, and its tag ``trial.state`` says so.
        """
        if state == "duplicate":
            return
        if trial.key not in self._trials:
            self.started(trial)
        if state == "complete" and value is not None:
            last = max((step for _, step in self._trials[trial.key]), default=0)
            self._tell(trial.key, {(SCORE, last): value})
        tags = {STATE_TAG: str(state), **({CAUSE_TAG: cause} if cause else {})}
        self.tag(trial.key, tags)
        self._end(trial.key, "FAILED" if state == "failed" else "FINISHED")
        del self._trials[trial.key]

    def final(
        self, group: Group, row: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> str:
        """Record the final fits of a method at a K as one child run, a step per draw.

        After an extension of the study other hyperparameters may be the chosen ones; the run of the
        former ones is deleted then, since MLflow changes no parameter.

        Returns:
            Key of the run, for its files; :meth:`close_final` ends it.
        """
        key = f"{group.name}-final"
        setting = dict(row["best"])
        params = run_params(group, setting, "final")
        differs = self._differing(group, setting)
        tags = {"kind": "final", DIFFERS_TAG: differs, "draws": str(len(records))}
        self._begin(key, key, params, tags, replace=True)
        self.metrics(key, final_values(row, records))
        return key

    def close_final(self, key: str) -> None:
        """End the run of final fits; its files were named."""
        self._end(key, "FINISHED")

    def finish(self, rows: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> None:
        """Close the study's run with the means of all rows."""
        means = {(f"{row['method']}.test.miou", int(row["shots"])): row["mean"] for row in rows}
        self.metrics(STUDY, means)
        self.tag(STUDY, tags)
        self._end(STUDY, "FINISHED")

    def abandon(self, status: str) -> None:
        """Close every open run as ``FAILED`` or ``KILLED``."""
        for key in reversed(self._running.copy()):
            self._end(key, status)
        self._trials.clear()

    def metrics(self, key: str, values: Values) -> None:
        """Results of a run: where a value has changed since it was told, the new one counts."""
        told = [[name, step, number(float(v))] for (name, step), v in values.items()]
        if told:
            self._add("metrics", key=key, values=told, again=True)

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Tags of a run."""
        if tags:
            self._add("tags", key=key, tags=self._censor.pairs(tags))

    def note(self, key: str, text: str) -> None:
        """What the UI shows above a run, in Markdown."""
        self.tag(key, {NOTE_TAG: text})

    def file(self, key: str, place: Place, folder: str = "") -> None:
        """A file that a run keeps in one of its folders; it must stay where it is until then."""
        self._add("file", key=key, source=str(place), folder=folder)

    def tree(self, key: str, place: Place, folder: str) -> None:
        """A folder that a run keeps with everything in it."""
        self._add("tree", key=key, source=str(place), folder=folder)

    def text(self, key: str, path: str, text: str) -> None:
        """A text that a run keeps as a file."""
        self._add("text", key=key, path=path, text=self._censor.text(text))

    def event(self, kind: str, **content: Any) -> None:
        """Any other event: a data set, a model, a view."""
        self._add(kind, **content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        patience = self._patience
        if error is not None:
            patience = min(patience, _LAST_PATIENCE)
            if not self._lost():
                self.abandon("FAILED" if isinstance(error, Exception) else "KILLED")
        self.close(patience)

    def close(self, patience: float) -> bool:
        """Wait for the delivery and end it; what could not be told waits on disk.

        Returns:
            Whether everything was told.
        """
        try:
            whole = self._sender.close(patience)
        except KeyboardInterrupt:  # whoever does not want to wait is told what waits
            whole = False
        self._journal.close()
        if not whole:
            left = waiting(self._journal.path, *self._delivery.told)
            fault = f": {self._sender.fault}" if self._sender.fault else ""
            self._say(
                f"warning: MLflow ({self._target.shown}) was not told everything{fault}; {left} "
                f"events wait on disk; when it answers: {self._sync_command()}"
            )
        if self._sender.refused:
            self._say(
                f"warning: MLflow refused {self._sender.refused} events; they are kept with the "
                f"reasons in {self.work / 'refused.jsonl'}"
            )
        return whole

    def waiting(self) -> int:
        """How many events MLflow was not told yet."""
        return waiting(self._journal.path, *self._delivery.told)

    def where(self) -> dict[str, str]:
        """How to look at the study in MLflow, without credentials.

        Returns:
            ``mlflow_uri``; ``mlflow_command``, which opens its UI, or its address; and
            ``mlflow_view``, the address of this study's runs in it, empty while MLflow has not
            answered yet.
        """
        target, experiment = self._target, self._delivery.experiment
        shown = target.shown
        # a password stays where it is
        given = shown if shown == target.uri else f'"${target.given_by}"'
        program = Path(sys.executable).parent / "mlflow"
        command = shown if target.served else f"{program} ui --backend-store-uri {given}"
        base = shown if target.served else _LOCAL_UI
        if target.served and experiment:
            command = view_link(base, experiment)
        return {
            "mlflow_uri": shown,
            "mlflow_command": command,
            "mlflow_view": view_link(base, experiment, self._uid) if experiment else "",
        }

    def _sync_command(self) -> str:
        root = str(self._folder.root)
        return shlex.join(
            ["python", "jobs/tracking.py", "sync", self._folder.study_id, "--root", root]
        )

    def _begin(
        self,
        key: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        replace: bool = False,
    ) -> None:
        content: dict[str, Any] = {"replace": True} if replace else {}
        self._add(
            "run",
            key=key,
            name=name,
            params=self._censor.pairs(params),
            tags=self._censor.pairs({**self._tags, **tags}),
            **content,
        )
        if key not in self._running:
            self._running.append(key)

    def _tell(self, key: str, values: Values) -> None:
        """Epochs of a trial, each once.

        What is told after a later epoch, which was the first that this driver saw, has a time
        before that one's.
        """
        told = self._trials.setdefault(key, {})
        new = {place: value for place, value in values.items() if place not in told}
        if not new:
            return
        events: list[list[Any]] = []
        for (name, step), value in new.items():
            later = [(other, at) for (of, other), at in told.items() if of == name and other > step]
            before = [min(later)[1] - (min(later)[0] - step)] if later else []
            events.append([name, step, number(float(value)), *before])
        at = self._add("metrics", key=key, values=events)
        told.update({(event[0], event[1]): (event[3:] or [at])[0] for event in events})

    def _end(self, key: str, status: str) -> None:
        self._add("end", key=key, status=status)
        if key in self._running:
            self._running.remove(key)

    def _add(self, kind: str, **content: Any) -> int:
        """Write an event and let it be told; returns its time in milliseconds."""
        at = self._journal.append(kind, **content)
        sender = getattr(self, "_sender", None)
        if sender is not None:
            sender.wake()
        return at

    def _differing(self, group: Group, setting: Mapping[str, Any]) -> str:
        """In one line what differs between trials: K and what is searched."""
        names = self._searched.get(group.method, tuple(setting))
        parts = [f"K={group.shots}"]
        parts += [f"{name}={short(setting[name])}" for name in names if name in setting]
        return " ".join(parts)
