"""A driver is killed with -9: nobody could tell MLflow then, and somebody does later."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console
from tracked import (
    EXPERIMENT,
    NOWHERE,
    ended_by,
    found,
    history,
    row,
    target,
    tell_story,
    track,
    trial,
    until,
)

from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking.dead import journals, mark_dead, name_target
from ssprompt_platform.tracking.journal import Journal
from ssprompt_platform.tracking.sync import Options, sync

HERE = Path(__file__).parent


def die(root: Path, uri: str) -> None:
    """A driver that is killed with -9 in the middle, and its sender a while before."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "dying_driver.py"), str(root), uri],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = list(iter(process.stdout.readline, "ready\n"))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, lines


def died(root: Path, uri: str) -> None:
    """The same, without a process."""
    tracker = track(uri, root, "dying")
    name_target(tracker.work, target(uri, root), root)
    tracker.started(trial(0))
    tracker.reported(trial(0), {"epoch": 1, "loss": 1.0})
    assert tracker.close(20)
    journal = Journal(tracker.work, "dying")
    params, tags, key = {"a": "1"}, {"kind": "search"}, trial(1).key
    journal.append("metrics", key=trial(0).key, values=[["train.loss", 2, 0.5]])
    journal.append("run", key=key, name=key, params=params, tags=tags)
    journal.append("metrics", key=key, values=[["train.loss", 1, 3.0]])
    journal.close()


def states(uri: str, study: str) -> dict[str, str]:
    return {key: run["status"] for key, run in found(uri, study).items()}


def another_study(root: Path, uri: str) -> None:
    """The next study of the same root, while which the dead one is finished."""
    with track(uri, root, "next") as tracker:
        tracker.started(trial(0))
        until(lambda: "RUNNING" not in states(uri, "dying").values(), lambda: states(uri, "dying"))
        tracker.ended(trial(0), "complete", 0.5, None)
        tracker.finish([], {})


def the_job(root: Path, uri: str) -> None:
    assert sync(Options(root=str(root)), Console(quiet=True))


Way = Callable[[Path, str], None]


@pytest.mark.parametrize(
    ("dying", "finished_by"), [(die, another_study), (died, another_study), (died, the_job)]
)
def test_what_a_killed_driver_left_is_told_and_its_runs_are_killed(
    dying: Way, finished_by: Way, own_uri: str, tmp_path: Path
) -> None:
    uri, root = own_uri, tmp_path
    dying(root, uri)
    assert set(states(uri, "dying").values()) == {"RUNNING"}
    finished_by(root, uri)
    runs = found(uri, "dying")
    assert {run["status"] for run in runs.values()} == {"KILLED"}
    assert set(runs) == {"study", trial(0).key, trial(1).key}
    assert history(runs[trial(0).key], "train.loss") == [(1, 1.0), (2, 0.5)]
    assert history(runs[trial(1).key], "train.loss") == [(1, 3.0)]
    # the time of the last thing that it said
    ended = MlflowClient(uri).get_run(runs["study"]["id"]).info.end_time
    last = journals(root)[0].folder / "journal.jsonl"
    assert ended is not None
    assert f'"at":{ended}' in last.read_text().splitlines()[-1]


def test_a_study_that_goes_on_has_its_runs_running_again(own_uri: str, tmp_path: Path) -> None:
    uri, root = own_uri, tmp_path
    died(root, uri)
    with ended_by(KeyboardInterrupt(), track(uri, root, "dying")) as tracker:
        tracker.started(trial(1))
        tracker.reported(trial(1), {"epoch": 2, "loss": 1.5})
        until(lambda: states(uri, "dying").get(trial(1).key) == "RUNNING")
        until(lambda: states(uri, "dying")[trial(0).key] == "KILLED")
        assert states(uri, "dying")["study"] == "RUNNING"
    assert set(states(uri, "dying").values()) == {"KILLED"}
    assert history(found(uri, "dying")[trial(1).key], "train.loss") == [(1, 3.0), (2, 1.5)]


def test_a_study_that_a_process_runs_is_left_alone(own_uri: str, tmp_path: Path) -> None:
    uri, root = own_uri, tmp_path
    died(root, uri)
    with owned(StudyFolder(root, "dying")):
        with track(uri, root, "next") as tracker:
            tell_story(tracker, root)
            until(lambda: tracker._delivery.done)
        the_job(root, uri)
        assert set(states(uri, "dying").values()) == {"RUNNING"}
    the_job(root, uri)
    assert set(states(uri, "dying").values()) == {"KILLED"}


def test_runs_whose_journal_is_lost_too_are_killed(own_uri: str, tmp_path: Path) -> None:
    """The study's folder was deleted; MLflow knows of which root it was."""
    uri, root = own_uri, tmp_path
    died(root, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    shutil.rmtree(root / "dying")
    assert not list(mark_dead(client, experiment.experiment_id, root, but="dying"))
    assert list(mark_dead(client, experiment.experiment_id, root)) == ["dying"]
    assert set(states(uri, "dying").values()) == {"KILLED"}
    assert not list(mark_dead(client, experiment.experiment_id, root))


def test_an_mlflow_of_another_study_that_is_away_harms_nobody(own_uri: str, tmp_path: Path) -> None:
    root = tmp_path
    died(root, own_uri)
    name_target(root / "dying" / "tracking", target(NOWHERE, root), root)
    said: list[str] = []
    with track(own_uri, root, "next", say=said.append) as tracker:
        tracker.finish([row()], {})
    assert states(own_uri, "next") == {"study": "FINISHED"}
    assert not said
