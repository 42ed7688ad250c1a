"""What a job imports before it knows what to do: seconds that every --help would take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
HELP = {
    "boto3", "botocore", "matplotlib", "mlflow", "numpy", "optuna", "pandas", "pyarrow", "ray",
    "scipy", "sklearn", "torch", "torchvision", "transformers",
}  # fmt: skip
# a dry run on a disk times the model itself, and plans with Optuna's distributions
DRY_RUN = HELP - {"numpy", "optuna", "torch", "torchvision"}
IMPORTED = """
import json, os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
names = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "names": names}), file=sys.stderr)
"""


def imported(folder: Path, *words: str, code: int = 0) -> set[str]:
    """Top-level packages that a job has imported when it ends, with this exit code."""
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words], cwd=folder, capture_output=True, text=True
    )
    told = json.loads(ended.stderr.splitlines()[-1])
    assert (told["code"] or 0) == code, ended.stderr
    assert ended.stdout or code
    return set(told["names"])


@pytest.mark.parametrize("job", JOBS)
def test_help_imports_nothing_that_takes_long(tmp_path: Path, job: str) -> None:
    assert not imported(tmp_path, str(ROOT / "jobs" / job), "--help") & HELP


@pytest.mark.parametrize("job", ["tune_shots.py", "encode.py"])
def test_a_mistake_in_the_words_is_told_before_models_are_imported(
    tmp_path: Path, job: str
) -> None:
    path = str(ROOT / "jobs" / job)
    assert not imported(tmp_path, path, "serch.trials=1", code=2) & HELP
    # what a method is, and what Optuna can search, is known to these two
    checked = imported(tmp_path, path, "study.methods=[spam]", code=2)
    assert checked & HELP <= {"numpy", "optuna", "torch"}


def test_a_dry_run_on_a_disk_imports_neither_ray_nor_what_reports_and_buckets_need(
    tmp_path: Path,
) -> None:
    names = imported(
        tmp_path, str(ROOT / "jobs" / "tune_shots.py"), "study=smoke", "study.dry_run=true"
    )
    # otherwise the list above would show nothing
    assert {"torch", "optuna"} <= names
    assert not names & DRY_RUN
    assert list(tmp_path.iterdir()) == []
