"""The same study in three ways: as Ray's documentation has it, a plain Optuna loop, the platform.

python -m benchmarks.parts.peers            # both models, about eight minutes on two cores
python -m benchmarks.parts.peers --quick    # the small model alone, fewer trials
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.parts.part import Cell, Part, run_part
from benchmarks.peers.problem import Done, Problem
from benchmarks.peers.processes import Run, run
from benchmarks.peers.setting import ROOT, environment, platform_study, small_problem, vit_problem
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import StudyFolder

COLUMNS = (
    "model",
    "way",
    "trials",
    "seconds a trial: median (min to max)",
    "trials a minute",
    "times (a)",
    "CPU seconds a trial",
    "whole run: seconds",
    "whole run: CPU seconds",
)
DOCUMENTED = "(a) Ray's guide: a TorchTrainer in each trial"
LOOP = "(b) Optuna loop, one thread, one core"
ONE = "(c) this platform, one worker, all on one core"
ALL = "(c) this platform, a worker a core"
_TRIALS = 6
"""Of a way, where no other number is given."""
_TOLERANCE = 0.02
"""Of the first trial's score, the same setting in all ways: sums in another order move pixels."""


@dataclass(frozen=True)
class Measured:
    """One run of one way.

    Attributes:
        run: What it took.
        done: Its trials.
        slots: Trials at once: the first of each slot, in which a worker starts, counts as start-up.
    """

    run: Run
    done: Done
    slots: int = 1

    @property
    def window(self) -> tuple[float, float]:
        """From the end of the first trial of each slot to that of the last trial."""
        return self.done.ended[self.slots - 1], self.done.ended[-1]

    @property
    def counted(self) -> int:
        """Trials within the window."""
        return len(self.done.ended) - self.slots

    @property
    def cpu(self) -> float:
        """Processor seconds within the window."""
        begin, end = self.window
        return self.run.cpu_at(end) - self.run.cpu_at(begin)

    def seconds_each(self) -> list[float]:
        """Seconds of each trial in the window: since the one before it in its slot ended."""
        ended = self.done.ended
        return [ended[i] - ended[i - self.slots] for i in range(self.slots, len(ended))]


def rate(runs: Sequence[Measured]) -> float:
    """Trials a minute, all runs of a way together."""
    seconds = sum(each.window[1] - each.window[0] for each in runs)
    return 60 * sum(each.counted for each in runs) / seconds


def cpu_each(runs: Sequence[Measured]) -> float:
    """Processor seconds a trial."""
    return sum(each.cpu for each in runs) / sum(each.counted for each in runs)


class Ways:
    """Runs a problem in each way, in temporary folders.

    Args:
        folder: Where everything is kept.
        problem: The study.
        counts: Trials of the ways that run another number than most.
    """

    def __init__(self, folder: Path, problem: Problem, counts: Mapping[str, int]) -> None:
        self._folder, self._problem, self._counts = folder, problem, counts
        self._cores = sorted(os.sched_getaffinity(0))
        self._runs = 0

    def run(self, way: str) -> Measured:
        """One run, said when it begins and ends."""
        self._runs += 1
        folder = self._folder / f"{self._runs}"
        folder.mkdir()
        problem = replace(self._problem, trials=self._counts.get(way, _TRIALS))
        print(f"{problem.model}: {way}, {problem.trials} trials ...", file=sys.stderr, flush=True)
        runner: Callable[[Problem, Path], Measured] = {
            DOCUMENTED: self._documented,
            LOOP: lambda p, f: self._loop(p, f, self._cores[:1]),
            ONE: lambda p, f: self._platform(p, f, self._cores[:1]),
            ALL: lambda p, f: self._platform(p, f, self._cores),
        }[way]
        measured = runner(problem, folder)
        print(
            f"  {rate([measured]):.1f} trials a minute, {cpu_each([measured]):.1f} CPU seconds "
            f"each; {measured.run.seconds:.0f} s in all",
            file=sys.stderr,
            flush=True,
        )
        return measured

    def _documented(self, problem: Problem, folder: Path) -> Measured:
        return self._peer("documented_ray", problem, folder, self._cores, str(folder / "ray"))

    def _loop(self, problem: Problem, folder: Path, cores: Sequence[int]) -> Measured:
        return self._peer("plain_optuna", problem, folder, cores, str(len(cores)))

    def _peer(
        self, module: str, problem: Problem, folder: Path, cores: Sequence[int], last: str
    ) -> Measured:
        problem.write(folder / "problem.json")
        done = folder / "done.json"
        words = [str(folder / "problem.json"), str(done), last]
        command = [sys.executable, "-m", f"benchmarks.peers.{module}", *words]
        return Measured(self._run(command, folder, cores), Done.read(done))

    def _platform(self, problem: Problem, folder: Path, cores: Sequence[int]) -> Measured:
        study = platform_study(problem, folder, workers=len(cores))
        command = [sys.executable, "jobs/tune_shots.py", f"study={study}"]
        found = self._run(command, folder, cores)
        trials = read_trials(StudyFolder(folder / "runs", "peers"))
        if any(trial.ended is None or trial.value is None for trial in trials):
            raise RuntimeError("the platform's study has trials without a score")
        ended = [(t.ended.timestamp(), t.value) for t in trials if t.ended and t.value is not None]
        first = trials[0].value
        ended.sort()
        # in the order of their ends, but the first score is that of the first proposal
        scores = [first or 0.0, *(value for _, value in ended)]
        return Measured(found, Done([at for at, _ in ended], scores), len(cores))

    def _run(self, command: Sequence[str], folder: Path, cores: Sequence[int]) -> Run:
        return run(command, folder / "log", cwd=ROOT, environment=environment(), cores=cores)


def measure(quick: bool) -> Part:
    """Run every way and compare."""
    rows: list[list[Cell]] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        small = small_problem(Path(folder) / "small", quick)
        if quick:
            add("small", [LOOP, ALL, DOCUMENTED], small, {DOCUMENTED: 2}, rows, notes)
        else:
            # the loop before and after what is compared with it, so that a drift falls on both
            order = [LOOP, ONE, LOOP, ALL, DOCUMENTED]
            add("small", order, small, {DOCUMENTED: 3, ONE: 10, ALL: 14}, rows, notes)
            vit = vit_problem(Path(folder) / "vit_b")
            add("vit_b", [LOOP, ALL, DOCUMENTED], vit, {DOCUMENTED: 2, ALL: 10}, rows, notes)
    return Part(
        title="Against peers",
        question=(
            "The same search (ssprompt, both learning rates, TPE) in three ways: (a) as Ray's user "
            "guide joins Tune and Train, the encoder inside the trial, Ray's defaults; (b) a plain "
            "Optuna loop over embeddings that it keeps in memory; (c) a study of this platform, "
            "with checkpoints, Optuna's database and MLflow on sqlite. All use the core's training "
            "step, the same images, steps and first setting, one thread a trial where not said "
            "otherwise, and the memory settings of the platform's workers."
        ),
        columns=COLUMNS,
        rows=rows,
        notes=[
            "Trials a minute are those of the steady state: from the end of the first trial (of "
            "each worker) on. A whole run is from the start of Python to its end: start-up, "
            "encoding and, of the platform, a final fit with its test score, the report and what "
            "MLflow is told besides. CPU seconds are user and system time of all processes that "
            "came of the command (workers, Ray's and MLflow's own), read from /proc five times a "
            "second.",
            *notes,
        ],
    )


def add(
    name: str,
    order: Sequence[str],
    problem: Problem,
    counts: Mapping[str, int],
    rows: list[list[Cell]],
    notes: list[str],
) -> None:
    """Measure a model's rows and what follows from them."""
    folder = Path(problem.folder).parent / f"{name}-runs"
    folder.mkdir()
    ways, runs = Ways(folder, problem, counts), dict[str, list[Measured]]()
    for way in order:
        runs.setdefault(way, []).append(ways.run(way))
    base = rate(runs[DOCUMENTED])
    for way in (DOCUMENTED, LOOP, ONE, ALL):
        if way in runs:
            rows.append([name, way, *cells(runs[way], base)])
    notes.append(verdict(name, problem, runs))


def cells(runs: Sequence[Measured], base: float) -> list[Cell]:
    """A way's row, its runs together; ``base`` is the rate of (a)."""
    each = [seconds for measured in runs for seconds in measured.seconds_each()]
    return [
        sum(len(measured.done.ended) for measured in runs),
        f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})",
        rate(runs),
        rate(runs) / base,
        cpu_each(runs),
        sum(measured.run.seconds for measured in runs) / len(runs),
        sum(measured.run.cpu_seconds for measured in runs) / len(runs),
    ]


def verdict(name: str, problem: Problem, runs: Mapping[str, Sequence[Measured]]) -> str:
    """What the figures say about the goals, met or not."""
    first = {measured.done.scores[0] for each in runs.values() for measured in each}
    if max(first) - min(first) > _TOLERANCE:
        raise RuntimeError(f"the first setting scores differently in the ways: {sorted(first)}")
    fitted, scored = len(problem.support), len(problem.selection)
    against_ray = rate(runs[ALL]) / rate(runs[DOCUMENTED])
    said = [
        f"**`{name}`**: a trial is {problem.epochs} x {problem.steps} steps of "
        f"{min(problem.batch_size, fitted)} of {fitted} support images (K = {problem.shots}, "
        f"{len(problem.class_names)} classes), scored on {scored} other"
        f"{'s' if scored > 1 else ''}. The platform runs {against_ray:.1f} times the trials a "
        f"minute of (a) ({goal(against_ray, 10)}).",
        f"A trial takes {cpu_each(runs[LOOP]) / cpu_each(runs[ALL]):.2f} of the CPU seconds in the "
        "plain loop that it takes here, the driver's and Ray's included.",
    ]
    if ONE in runs:
        per_core = rate(runs[ONE]) / rate(runs[LOOP])
        said.append(
            f"On one core, shared by the worker, the driver, the database and tracking, it runs "
            f"{per_core:.2f} times the trials a minute of the plain loop "
            f"({goal(per_core, 0.9)}); {runs[ALL][0].slots} workers on as many cores run "
            f"{rate(runs[ALL]) / rate(runs[ONE]):.2f} times those of one."
        )
    said.append(
        f"The first setting's mIoU differs by {max(first) - min(first):.1g} between the ways."
    )
    return " ".join(said)


def goal(value: float, least: float) -> str:
    """Whether a ratio is what it should be."""
    return f"goal {least:g}: {'met' if value >= least else 'not met'}"


if __name__ == "__main__":
    sys.exit(run_part(measure))
