"""A search with a planted objective as a process of its own, to be killed: see test_kills.py."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from synthetic import PlantedWork, planted_plan, searcher

from ssprompt_platform.cluster import connected
from ssprompt_platform.config.schema import Config
from ssprompt_platform.live import SearchView
from ssprompt_platform.search.grouped import GroupedSearch
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.trial import TrialTask
from ssprompt_platform.search.tuning import in_actors, run_search
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking import Tracker, target_of

METHODS, SHOTS, TRIALS, DRAWS, EPOCHS = ("spa", "linear_probe"), (1, 4), 6, 2, 3


def search_of(folder: StudyFolder) -> GroupedSearch:
    config = Config()
    config.study.methods, config.study.shots = list(METHODS), list(SHOTS)
    config.search.trials, config.search.draws, config.train.epochs = TRIALS, DRAWS, EPOCHS
    return searcher(folder, config, planted_plan(METHODS, SHOTS, DRAWS))


@dataclass(frozen=True)
class Processes:
    """Notes in which processes epochs were run; called as a fault that never comes."""

    root: Path

    def __call__(self, task: TrialTask, epoch: int) -> None:
        with (self.root / "processes").open("a") as file:
            file.write(f"{os.getpid()}\n")


def work_of(root: Path, pause: float) -> PlantedWork:
    noted = Processes(root)
    return PlantedWork(root / "log", number_of_draws=DRAWS, pause=pause, fault=noted)


def main(root: Path, pause: float) -> None:
    folder = StudyFolder(root, "s")
    with connected():
        tracker = Tracker(
            folder, "uid", target_of("", "e", root), name="s", params={"kind": "study"}
        )
        search = search_of(folder)
        with tracker, SearchView(Console(), search.totals(), read_trials(folder)) as view:
            search.observe(tracker, view)
            print("searching", flush=True)
            run_search(search, in_actors(work_of(root, pause), folder, {"CPU": 1}), folder, 2)
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
