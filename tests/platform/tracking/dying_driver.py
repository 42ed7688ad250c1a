"""A driver that holds a study, begins two trials and waits to be killed: see test_dead_studies.py.

Its sender never gets on after the first trial's first epoch, so the rest is only in the journal.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from mlflow import MlflowClient
from tracked import found, target, track, trial, until

from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking.dead import name_target


def main(root: Path, uri: str) -> None:
    original = MlflowClient.log_batch
    stuck = threading.Event()

    def first_only(client, run_id, *arguments, **options):
        if stuck.is_set():
            threading.Event().wait()
        return original(client, run_id, *arguments, **options)

    MlflowClient.log_batch = first_only  # type: ignore[method-assign]
    with owned(StudyFolder(root, "dying")):
        tracker = track(uri, root, "dying")
        name_target(tracker.work, target(uri, root), root)
        tracker.started(trial(0))
        tracker.reported(trial(0), {"epoch": 1, "loss": 1.0})
        until(lambda: found(uri, "dying").get(trial(0).key, {}).get("metrics"))
        stuck.set()
        tracker.reported(trial(0), {"epoch": 2, "loss": 0.5})
        tracker.started(trial(1))
        tracker.reported(trial(1), {"epoch": 1, "loss": 3.0})
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
