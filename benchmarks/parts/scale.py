"""Studies of up to 10,000 trials: what a trial costs in the driver, its memory, and the report.

python -m benchmarks.parts.scale [--quick]
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.parts.part import Part, run_part

_TESTS = Path(__file__).resolve().parents[2] / "tests"
_SIDE_BY_SIDE = 16
_TOLD = 500
"""Trials of which MLflow is told: what each costs does not depend on their number."""


@dataclass(frozen=True)
class Driven:
    """What driving the searcher of one study cost.

    Attributes:
        milliseconds: Processor time a trial: proposal, database, bookkeeping, journal.
        last: The same over the last tenth of the trials.
        memory: MB that the process grew by.
        report: Processor seconds of the report; None: none was made.
        page: MB of its page.
    """

    milliseconds: float
    last: float
    memory: float
    report: float | None
    page: float | None


def measure(quick: bool) -> Part:
    """Drive studies of several sizes, each in a process of its own, and one through Ray."""
    sizes = (100, 300, 1000) if quick else (100, 1000, 10_000)
    shapes = [(size, 1) for size in sizes] + [(sizes[-1], 20)]
    rows: list[list[Any]] = []
    for trials, searches in shapes:
        got: Driven = _alone(
            drive, trials, searches, searches == 1 and (not quick or trials <= 300)
        )
        shape = "one search" if searches == 1 else f"{searches} searches side by side"
        rows.append([shape, trials, *asdict(got).values()])
    told: float = _alone(tell, 300 if quick else _TOLD)
    workers, trials = (4, 80) if quick else (12, 300)
    rate: float = _alone(through_ray, workers, trials)
    return Part(
        title="Studies of many trials",
        question=(
            "No-op trials (three epochs reported, TPE over the default space) that are proposed "
            "and ended in a loop, without Ray: processor milliseconds of the driver a trial, for "
            "the proposal, Optuna's database, bookkeeping and the journal of tracking."
        ),
        columns=[
            "shape",
            "trials",
            "ms a trial",
            "ms a trial, last tenth",
            "memory grown by (MB)",
            "report (CPU s)",
            "its page (MB)",
        ],
        rows=rows,
        notes=[
            "A proposal looks at 1,000 trials of its search at most (the best 250 and the latest), "
            "so a trial costs the same from then on; the report shows 1,000 trials one by one.",
            f"Telling MLflow (sqlite, in its own thread) costs {told:.1f} ms of processor time a "
            "trial more, whatever their number.",
            f"Through Ray Tune, {workers} workers whose trials sleep 0.3 s: {rate:.1f} trials a "
            f"second in the steady state, of {workers / 0.3:.0f} that the sleep allows. All "
            "workers are processes of this machine and share its cores with the driver; 100 of "
            "them do not fit one small machine.",
        ],
    )


def drive(trials: int, searches: int, report: bool) -> Driven:
    """Propose and end the trials of one study; then make its report."""
    from benchmarks.parts.noop import config
    from ssprompt_platform.storage import StudyFolder

    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        root = Path(name)
        if report:
            # a finished study, whose search is replaced by the one that is measured
            sys.path.append(str(_TESTS))
            from study_folder import write_study

            write_study(
                root, "made", methods=("ssprompt",), shots=tuple(range(1, searches + 1)),
                draws=1, trials=1, test_images=1,
            )  # fmt: skip
        folder = StudyFolder(root, "made")
        folder.optuna.unlink(missing_ok=True)
        before = _memory()
        marks = _loop(folder, config(trials, searches))
        grown = _memory() - before
        tenth = max(1, trials // 10)
        seconds, page = _report(root) if report else (None, None)
    return Driven(
        1e3 * (marks[-1] - marks[0]) / trials,
        1e3 * (marks[-1] - marks[-1 - tenth]) / tenth,
        grown,
        seconds,
        page,
    )


def _loop(folder: Any, made: Any) -> list[float]:
    """Processor seconds at the begin, and after each trial."""
    from benchmarks.parts.noop import score, searcher
    from ssprompt_platform.tracking import Target, Tracker

    search = searcher(folder, made)
    # nothing listens there: events are written down, and wait
    target = Target("http://127.0.0.1:9", "bench", None, "")
    tracker = Tracker(folder, "bench", target, name="bench", params={})
    search.observe(tracker)
    marks, running = [time.process_time()], []
    number = 0
    while True:
        suggestion = search.suggest(f"x{number}") if len(running) < _SIDE_BY_SIDE else None
        if isinstance(suggestion, dict):
            running.append((f"x{number}", suggestion))
            number += 1
            continue
        if not running:
            break
        trial_id, given = running.pop(0)
        history = [{"epoch": e, "loss": 1 / e} for e in range(1, given["epochs"] + 1)]
        for entry in history:
            search.on_trial_result(trial_id, entry)
        value = score(given["hyperparameters"])
        search.on_trial_complete(
            trial_id,
            {
                "end": "complete", "miou": value, "cause": None, "scores": [value], "rungs": [],
                "history": history, "seconds": 0.01,
            },
        )  # fmt: skip
        marks.append(time.process_time())
    tracker.close(0.0)
    search.close()
    return marks


def _report(root: Path) -> tuple[float, float]:
    from rich.console import Console

    from ssprompt_platform.report.reporting import ReportOptions, make_report

    begun = time.process_time()
    page = make_report(ReportOptions("made", root=str(root)), Console(file=io.StringIO()))
    return time.process_time() - begun, len(page.read_bytes()) / 1e6


def tell(trials: int) -> float:
    """Processor milliseconds a trial of telling MLflow what a study wrote down."""
    from benchmarks.parts.noop import config
    from ssprompt_platform.storage import StudyFolder
    from ssprompt_platform.tracking import Target
    from ssprompt_platform.tracking.dead import FOLDER
    from ssprompt_platform.tracking.delivery import Delivery

    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        root = Path(name)
        folder = StudyFolder(root, "made")
        _loop(folder, config(trials, 1))
        target = Target(f"sqlite:///{root}/mlflow.db", "bench", (root / "files").as_uri(), "")
        delivery = Delivery(folder.work / FOLDER, target, folder.study_id, 0)
        # the first step connects, and makes the database
        delivery.work()
        first, begun = delivery.told[0], time.process_time()
        whole = (folder.work / FOLDER / "journal.jsonl").stat().st_size
        while not delivery.done:
            delivery.work()
        seconds = time.process_time() - begun
        delivery.close()
    return 1e3 * seconds / (trials * max(1e-9, 1 - first / whole))


def through_ray(workers: int, trials: int) -> float:
    """Trials a second in the steady state."""
    import ray

    from benchmarks.parts.noop import NoWork, Times, config, searcher, tracked
    from ssprompt_platform.cluster import prepare_environment
    from ssprompt_platform.search.tuning import in_actors, run_search
    from ssprompt_platform.storage import StudyFolder

    prepare_environment()
    ray.init(address="local", num_cpus=workers, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            folder, times = StudyFolder(Path(name), "made"), Times()
            search = searcher(folder, config(trials, workers))
            with tracked(folder) as tracker:
                search.observe(tracker, times)
                run_search(search, in_actors(NoWork(0.1), folder, {"CPU": 1}), folder, 0)
            search.close()
    finally:
        ray.shutdown()
    return 1 / times.steady()


def _memory() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    sys.exit(run_part(measure))
