"""What the tests of tracking share: a small study's story, and what MLflow knows of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking import Target, Tracker
from ssprompt_platform.tracking.delivery import Delivery

EXPERIMENT = "test"
GROUP = Group("spa", 4)
SETTING = {"num_prompts": 16, "lr_embedding": 0.1, "lr_weight": 0.1, "epochs": 7}
TRIAL = Suggestion("spa-k4", "spa", 4, 0, SETTING)
NOWHERE = "http://127.0.0.1:9"
"""Nothing listens at the discard port."""


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def trial(number: int, **setting: Any) -> Suggestion:
    return Suggestion("spa-k4", "spa", 4, number, {**SETTING, **setting})


@contextmanager
def ended_by(error: BaseException, tracker: Tracker) -> Iterator[Tracker]:
    """A study that ends by an error at the end of the block."""
    with pytest.raises(type(error)), tracker:  # noqa: PT012  (the block is the caller's)
        yield tracker
        raise error


def target(uri: str, root: Path) -> Target:
    """Artifacts lie beside a sqlite file, which several tests share, or in the root."""
    folder = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite") else root
    artifacts = None if uri.startswith("http") else (folder / "mlflow-artifacts").as_uri()
    return Target(uri, EXPERIMENT, artifacts, "tracking.uri")


def track(uri: str, root: Path, study_id: str, uid: str = "", **options: Any) -> Tracker:
    """A tracker of a study in a root of its own; artifacts are local unless a server has them."""
    given = {"params": {"a.b": 1, "kind": "study"}, "patience": 20.0, **options}
    folder = StudyFolder(root, study_id)
    return Tracker(folder, uid or study_id, target(uri, root), name=study_id, **given)


def row(mean: float = 0.5) -> dict[str, Any]:
    return {
        "method": "spa",
        "shots": 4,
        "mean": mean,
        "ci95": [mean - 0.1, mean + 0.1],
        "best": SETTING,
    }


def record(draw: int, miou: float = 0.5) -> dict[str, Any]:
    return {"draw": draw, "miou": miou, "history": [{"epoch": 1, "loss": 0.3}]}


def final(tracker: Tracker, now: dict[str, Any], records: list[dict[str, Any]]) -> None:
    tracker.close_final(tracker.final(GROUP, now, records))


def tell_story(tracker: Tracker, root: Path, trials: int = 2) -> None:
    """A whole study: trials side by side, one that fails, final fits, files."""
    own = [trial(number, num_prompts=number + 1) for number in range(trials)]
    for one in own:
        tracker.started(one)
    for epoch in (1, 2):
        for one in own:
            tracker.reported(one, {"epoch": epoch, "loss": 1.0 / epoch + one.number})
    for one in own:
        state = "failed" if one.number == 1 else "complete"
        history = [{"epoch": e, "loss": 1.0 / e + one.number} for e in (1, 2)]
        tracker.reported(one, {"end": state, "history": history})
        cause = "it diverged" if state == "failed" else None
        tracker.ended(one, state, None if cause else 0.25, cause)  # type: ignore[arg-type]
    key = tracker.final(GROUP, row(), [record(0), record(1, 0.25)])
    prompts = root / "prompts.safetensors"
    prompts.write_bytes(b"prompts")
    tracker.file(key, prompts, "prompts")
    tracker.close_final(key)
    tracker.text("study", "config.yaml", "a: 1\n")
    tracker.finish([row()], {})


def written(root: Path, study_id: str, tell: Callable[[Tracker], None]) -> Path:
    """The journal of a study that could tell nobody; returns its folder."""
    tracker = track(NOWHERE, root, study_id)
    tell(tracker)
    tracker.close(0)
    return tracker.work


def deliver(folder: Path, uri: str, root: Path, study_id: str) -> Delivery:
    """Deliver a journal to its end."""
    delivery = Delivery(folder, target(uri, root), study_id)
    delivery.hasten()
    try:
        until(lambda: delivery.work() is None or delivery.done, lambda: delivery.fault)
    finally:
        delivery.close()
    return delivery


def until(
    done: Callable[[], object], why: Callable[[], object] = str, seconds: float = 60.0
) -> None:
    """Poll until something is so."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, why()
        time.sleep(0.02)


def found(uri: str, study_id: str, uid: str = "") -> dict[str, dict[str, Any]]:
    """What MLflow knows of a study, by key, without what differs from one time to the next."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return {}
    query = f"tags.`study.uid` = '{uid or study_id}' AND tags.`study.id` = '{study_id}'"
    runs = client.search_runs([experiment.experiment_id], query)
    known: dict[str, dict[str, Any]] = {}
    parents = {run.info.run_id: run.data.tags["trial.key"] for run in runs}
    for run in runs:
        tags = dict(run.data.tags)
        key = tags.pop("trial.key")
        assert key not in known, f"the run {key} was made twice"
        for name in ("study.id", "study.uid", "study.root", "tracking.journals", "mlflow.user"):
            tags.pop(name, None)
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = parents[tags["mlflow.parentRunId"]]
        metrics = [
            (one.key, one.step, one.value)
            for name in run.data.metrics
            for one in client.get_metric_history(run.info.run_id, name)
        ]
        assert len({(name, step) for name, step, _ in metrics}) == len(metrics), metrics
        known[key] = {
            "status": run.info.status,
            "params": dict(run.data.params),
            "tags": tags,
            "metrics": sorted(metrics),
            "files": sorted(files(client, run.info.run_id)),
            "id": run.info.run_id,
        }
    return known


def without_ids(known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {k: v for k, v in run.items() if k != "id"} for key, run in known.items()}


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    paths = []
    for one in client.list_artifacts(run_id, folder):
        paths += files(client, run_id, one.path) if one.is_dir else [one.path]
    return paths


def history(run: dict[str, Any], name: str) -> list[tuple[int, float]]:
    return [(step, value) for key, step, value in run["metrics"] if key == name]
