from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from learned import load_job
from tracked import NOWHERE, TRIAL, found, target, tell_story, track, trial, written

from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.tracking.dead import name_target

PROJECT = Path(__file__).resolve().parents[3]
job = load_job("tracking")


def left(root: Path, study: str, uri: str) -> Path:
    """A study whose MLflow was away all the time."""
    folder = written(root, study, lambda tracker: tell_story(tracker, root))
    name_target(folder, target(uri, root), root)
    return folder


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    told = capsys.readouterr().out
    for part in ("python jobs/tracking.py sync", "KILLED", "--uri", "refused.jsonl", "Exit codes"):
        assert part in told


def test_status_and_sync(own_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for study in ("one", "two"):
        left(tmp_path, study, own_uri)
    assert job.main(["status", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "one: 21 of 21 events wait; MLflow is sqlite:///" in told
    assert job.main(["sync", "one", "--root", str(tmp_path)]) == 0
    assert "one: everything is told (21 events waited)" in capsys.readouterr().out
    assert set(found(own_uri, "one")) == {"study", "spa-k4-final", TRIAL.key, trial(1).key}
    assert found(own_uri, "two") == {}
    assert job.main(["sync", "--root", str(tmp_path)]) == 0
    assert set(found(own_uri, "two")) == set(found(own_uri, "one"))
    assert job.main(["status", str(tmp_path / "two")]) == 0
    assert "two: 0 of 21 events wait" in capsys.readouterr().out


def test_a_whole_study_can_be_told_to_another_mlflow(own_uri: str, tmp_path: Path) -> None:
    left(tmp_path, "one", NOWHERE)
    assert job.main(["sync", "one", "--root", str(tmp_path), "--patience", "0"]) == 1
    assert job.main(["sync", "one", "--root", str(tmp_path), "--uri", own_uri]) == 0
    assert len(found(own_uri, "one")) == 4


def test_what_waits_still_is_exit_code_1_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path, "one", NOWHERE)
    assert job.main(["sync", "--root", str(tmp_path), "--patience", "0"]) == 1
    told = capsys.readouterr().out
    assert "one: 21 events still wait: nothing answers at 127.0.0.1:9" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sync", "tow"], "did you mean 'two'?"),
        (["sync", "two", "--uri", "mlruns"], "must be the address of an MLflow server"),
        (["sync", "two", "--uri", "http://127.0.0.1:9"], "nothing answers at 127.0.0.1:9"),
        (["status", "nothing/of/this"], "no journal of a study 'this'"),
    ],
)
def test_mistakes(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left(tmp_path, "two", NOWHERE)
    assert job.main([*words, "--root", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


def test_an_empty_root_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["sync", "--root", str(tmp_path)]) == 0
    assert "has anything to tell" in capsys.readouterr().out


def test_a_study_that_runs_tells_mlflow_itself(
    own_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(StudyFolder(tmp_path, "busy")):
        left(tmp_path, "busy", own_uri)
        assert job.main(["sync", "--root", str(tmp_path)]) == 0
    assert "busy: a process runs it, which tells MLflow itself" in capsys.readouterr().out
    assert found(own_uri, "busy") == {}


def test_runs_left_open_are_killed(own_uri: str, tmp_path: Path) -> None:
    tracker = track(own_uri, tmp_path, "open")
    tracker.started(TRIAL)
    tracker.close(20)
    name_target(tracker.work, target(own_uri, tmp_path), tmp_path)
    assert job.main(["sync", "--root", str(tmp_path)]) == 0
    assert {run["status"] for run in found(own_uri, "open").values()} == {"KILLED"}


def test_neither_torch_nor_ray_is_needed() -> None:
    script = (
        "import sys; sys.path.insert(0, 'jobs');"
        "sys.modules['ray'] = sys.modules['torch'] = None;"
        "import tracking; tracking.main(['status', '--root', '/nowhere'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
