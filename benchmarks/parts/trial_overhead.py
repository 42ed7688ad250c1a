"""What a trial costs beyond its training: ways to run a trial that does nothing on Ray.

python -m benchmarks.parts.trial_overhead [--quick]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from benchmarks.parts.noop import NoWork, Times, config, searcher, tracked
from benchmarks.parts.part import Part, run_part
from ssprompt_platform.cluster import connected, prepare_environment
from ssprompt_platform.plan import Group
from ssprompt_platform.search.pruning import NO_RULES
from ssprompt_platform.search.trial import TrialPlace, TrialTask, run_trial
from ssprompt_platform.search.tuning import in_actors, run_search
from ssprompt_platform.storage import StudyFolder, ray_storage

_SETTING = {"lr_embedding": 0.1}


def measure(quick: bool) -> Part:
    """Run no-op trials one after the other on one slot, each way."""
    many, few = (40, 3) if quick else (120, 6)
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as name:
        root = Path(name)
        bare = _bare(root, many)
        rows.append(["bare loop in one process", many, bare, None, "checkpoints"])
        with _one_slot():
            everything = "checkpoints, Optuna, MLflow, one result once"
            # the first study warms the cluster up; of what follows the middle one counts
            seconds = [_ours(root / f"ours-{n}", many) for n in range(1 if quick else 3)]
            ours = statistics.median(seconds)
            pool = _pool(root, many)
            plain = _plain(root / "plain", few)
            ways: list[tuple[str, int, float, str]] = [
                ("this platform: a reused Tune actor", many, ours, everything),
                ("warm pool (ray.util.ActorPool), no search", many, pool, "checkpoints"),
                ("Tune function, a process a trial", few, plain, "checkpoints"),
            ]
        for way, trials, seconds_each, keeps in ways:
            rows.append([way, trials, seconds_each, max(0.0, seconds_each - bare), keeps])
    return Part(
        title="Overhead of a trial",
        question=(
            "Trials of three epochs that compute nothing, one after the other on one slot: wall "
            "seconds a trial in the steady state (without the first quarter, in which processes "
            "start), and what that is beyond the bare loop."
        ),
        columns=["way", "trials", "seconds a trial", "beyond the bare loop", "what is kept"],
        rows=rows,
        notes=[
            "A state of 4 kB is kept after every epoch, of a real trial every fifth by default."
        ],
    )


@contextmanager
def _one_slot() -> Iterator[None]:
    prepare_environment()
    ray.init(
        address="local", num_cpus=1, include_dashboard=True, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    try:
        with connected():
            yield
    finally:
        ray.shutdown()


def _trial(root: Path, number: int, report: Any = lambda values: None) -> None:
    task = TrialTask(f"t{number:04d}", Group("ssprompt", 1), _SETTING, 3, NO_RULES)
    run_trial(NoWork(), task, TrialPlace(root / task.key, "session"), report)


def _bare(root: Path, trials: int) -> float:
    begun = time.perf_counter()
    for number in range(trials):
        _trial(root / "bare", number)
    return (time.perf_counter() - begun) / trials


def _ours(root: Path, trials: int) -> float:
    folder, times = StudyFolder(root, "bench"), Times()
    search = searcher(folder, config(trials, 4))
    with tracked(folder) as tracker:
        search.observe(tracker, times)
        run_search(search, in_actors(NoWork(), folder, {"CPU": 1}), folder, 0)
    search.close()
    return times.steady()


def _pool(root: Path, trials: int) -> float:
    @ray.remote(num_cpus=1)
    class Worker:
        def run(self, number: int) -> None:
            _trial(root / "pool", number)

    worker = Worker.remote()
    pool = ray.util.ActorPool([worker])
    list(pool.map(lambda actor, number: actor.run.remote(number), range(4)))
    begun = time.perf_counter()
    list(pool.map(lambda actor, number: actor.run.remote(number), range(4, trials + 4)))
    seconds = time.perf_counter() - begun
    ray.kill(worker)
    return seconds / trials


class _Ends(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    def __init__(self) -> None:
        self.times = Times()

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        self.times.ended()


def _plain(root: Path, trials: int) -> float:
    def function(given: dict[str, Any]) -> None:
        _trial(root / "trials", given["number"], tune.report)

    return _tuned(root, tune.with_resources(function, {"CPU": 1}), trials)


def _tuned(root: Path, trainable: Any, trials: int) -> float:
    ends = _Ends()
    tune.Tuner(
        trainable,
        param_space={"number": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=False),
        run_config=tune.RunConfig(name="tune", callbacks=[ends], verbose=0, **ray_storage(root)),
    ).fit()
    return ends.times.steady() if trials > 2 else float("nan")


if __name__ == "__main__":
    sys.exit(run_part(measure))
