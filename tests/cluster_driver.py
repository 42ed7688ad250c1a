"""A search with planted answers as the driver of a cluster whose machines come and go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from planted_driver import DRAWS, search_of
from rich.console import Console
from synthetic import PlantedWork

from ssprompt_platform.capacity import workers_asked
from ssprompt_platform.cluster import connected
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.live import SearchView
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.trial import TrialTask
from ssprompt_platform.search.tuning import in_actors, run_search
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking import Tracker, target_of


def note_machine(log: Path, hold: Path) -> Callable[[TrialTask, int], None]:
    """Writes which machine begins an epoch of which trial; it lasts while ``hold`` is there."""

    def note(task: TrialTask, epoch: int) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        with log.open("a") as lines:
            lines.write(f"{task.key} {epoch} {node}\n")
        while hold.exists():
            time.sleep(0.05)

    return note


def main(root: Path, workers: int) -> None:
    folder = StudyFolder(root, "s")
    train = TrainConfig(workers=workers, device="cpu")
    with connected(), workers_asked(train, lambda text: print(text, flush=True)):
        print("searching", flush=True)
        tracker = Tracker(
            folder, "uid", target_of("", "ssprompt", root), name="s", params={"kind": "study"}
        )
        search = search_of(folder)
        work = PlantedWork(
            root / "log",
            number_of_draws=DRAWS,
            fault=note_machine(root / "machines", root / "hold"),
        )
        with tracker, SearchView(Console(), search.totals(), read_trials(folder)) as view:
            search.observe(tracker, view)
            run_search(search, in_actors(work, folder, {"CPU": 1}), folder, 0, view.say)
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
