"""What a command costs before it works: --help of every job, and a dry run, against bare Python.

python -m benchmarks.parts.start_up [--quick]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.parts.part import Part, run_part

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "jobs"
TUNE = str(JOBS / "tune_shots.py")
_BARE, _TORCH = "python -c pass", 'python -c "import torch"'
_COMPILER = 'python -c "import torch, torch._dynamo"'
_IMPORTED = """
import json, os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
_HEAVY = (
    "torch", "torchvision", "ray", "mlflow", "optuna", "boto3", "pyarrow", "matplotlib", "pandas",
    "scipy", "sklearn", "transformers",
)  # fmt: skip


def commands() -> dict[str, list[str]]:
    """Name -> arguments of Python, the two yardsticks first."""
    named = {
        _BARE: ["-c", "pass"],
        _TORCH: ["-c", "import torch"],
        _COMPILER: ["-c", "import torch, torch._dynamo"],
    }
    for job in sorted(JOBS.glob("*.py")):
        named[f"jobs/{job.name} --help"] = [str(job), "--help"]
    for study in ("smoke", "default"):
        named[f"dry run of the study '{study}'"] = [TUNE, f"study={study}", "study.dry_run=true"]
    named["a mistake in the words"] = [TUNE, "serch.trials=1"]
    return named


def measure(quick: bool) -> Part:
    """Run every command in turn, several times over."""
    named = commands()
    if quick:
        left_out = {n for n in named if n.endswith("--help") and TUNE.rpartition("/")[2] not in n}
        named = {name: words for name, words in named.items() if name not in left_out}
    rounds = 1 if quick else 5
    walls: dict[str, list[float]] = {name: [] for name in named}
    cpus: dict[str, list[float]] = {name: [] for name in named}
    with tempfile.TemporaryDirectory(prefix="ssprompt-bench-") as folder:
        # the first run of each is not counted: later ones find its files in memory
        heavy = {name: _heavy(words, Path(folder)) for name, words in named.items()}
        for _ in range(rounds):
            for name, words in named.items():
                wall, cpu = _timed(words, Path(folder))
                walls[name].append(wall)
                cpus[name].append(cpu)
    rows = [_row(name, walls, cpus, heavy) for name in named]
    return Part(
        title="Start-up",
        question=(
            "What a command takes before it does anything, as a ratio to starting Python and to "
            "importing torch. All commands run in turn, one at a time, "
            f"in {rounds} round{'s' * (rounds > 1)}; the table has the medians."
        ),
        columns=(
            "command", "wall s", "CPU s", "CPU / bare Python", "CPU / import torch",
            "large packages imported",
        ),
        rows=rows,
        notes=(
            "A dry run reads the configuration, draws the scenes of the train pool to plan the "
            "support sets, builds the model, and times a few real steps of every method. It cannot "
            "take less than importing torch and torch._dynamo, which torchvision (through "
            "segment-anything) and the first optimiser of a process import.",
        ),
    )  # fmt: skip


def _timed(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one run; its output is dropped."""
    before, begun = _children(), time.perf_counter()
    subprocess.run(
        [sys.executable, *words], cwd=folder, env=_environment(), check=False, capture_output=True
    )
    return time.perf_counter() - begun, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _heavy(words: Sequence[str], folder: Path) -> str:
    """Which of the large packages a command imports."""
    if words[0] == "-c":
        return "torch" if "torch" in words[1] else "none"
    ended = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *words],
        cwd=folder, env=_environment(), check=False, capture_output=True, text=True,
    )  # fmt: skip
    names = json.loads(ended.stderr.splitlines()[-1])
    return ", ".join(name for name in _HEAVY if name in names) or "none"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)])}


def _row(
    name: str,
    walls: Mapping[str, Sequence[float]],
    cpus: Mapping[str, Sequence[float]],
    heavy: Mapping[str, str],
) -> list[str | float]:
    cpu = statistics.median(cpus[name])
    bare, torch = statistics.median(cpus[_BARE]), statistics.median(cpus[_TORCH])
    return [name, statistics.median(walls[name]), cpu, cpu / bare, cpu / torch, heavy[name]]


if __name__ == "__main__":
    sys.exit(run_part(measure))
