"""The doctor as it is typed: a sick set-up is told line by line, a sound one ends with 0."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT


@pytest.fixture(scope="module")
def job() -> ModuleType:
    """The job as a module, so that most tests need no process of their own."""
    spec = importlib.util.spec_from_file_location("doctor_job", ROOT / "jobs" / "doctor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_sound_set_up(job, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    root = tmp_path / "runs"
    assert job.main(["--fast", "study=smoke", f"storage.root={root}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OK    Python")
    assert lines[-1].endswith("a study can run")
    assert not any(line.startswith("FAIL") for line in lines)
    assert not root.exists()


def test_a_sick_one_says_what_mends_it(job, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    (tmp_path / "runs").write_text("no folder")
    words = [
        f"storage.root={tmp_path / 'runs'}",
        "tracking.uri=http://127.0.0.1:1",
        "tracking.must_answer=false",
    ]
    assert job.main([*words, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["fails"] is True
    wrong = {each["name"]: each for each in told["findings"] if each["state"] != "OK"}
    assert wrong["storage"]["state"] == wrong["Ray"]["state"] == "FAIL"
    assert wrong["MLflow"]["state"] == "WARN"
    assert all(each["mend"] for each in wrong.values())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["study=smok"], "did you mean 'smoke'?"),
        (["storage.rot=x"], "did you mean 'storage.root'?"),
        (["storage.root=s3://"], "is no S3 address"),
    ],
)
def test_mistakes_in_the_words(job, capsys, words, part) -> None:
    assert job.main(words) == 2
    assert part in capsys.readouterr().err


def test_a_bucket_and_a_cluster_of_its_own(s3_bucket, tmp_path) -> None:
    """The whole examination by the command line, workers included: they inherit the keys."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [
        sys.executable, str(ROOT / "jobs" / "doctor.py"), "study=smoke",
        f"storage.root={s3_bucket}", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    for step in ("write", "conditional write", "read", "list", "delete", "clock"):
        assert findings[f"S3 {step}"]["state"] == "OK"
    # nobody has set this bucket up
    assert findings["S3 versions"]["state"] == findings["S3 rules"]["state"] == "WARN"
    assert findings["S3 rules"]["mend"] == f"python jobs/storage.py init {s3_bucket}"
    (node,) = [each for name, each in findings.items() if name.startswith("node ")]
    assert node["state"] == "OK"
    assert f"reaches {s3_bucket}" in node["found"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in done.stdout + done.stderr


def test_the_help_teaches(job, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("--fast", "conditional write", "Exit codes", "RAY_ADDRESS"):
        assert word in out


def test_what_a_study_begins_with_is_tried_before_anything_is_written(tmp_path) -> None:
    """The same check, in the job that runs studies."""
    (tmp_path / "runs").write_text("no folder")
    command = [
        sys.executable, str(ROOT / "jobs" / "tune_shots.py"), "study=smoke",
        f"storage.root={tmp_path / 'runs'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 2
    assert done.stderr.startswith("error: storage.root: ")
    assert "a part of the path is a file" in done.stderr
    assert [path.name for path in Path(tmp_path).iterdir()] == ["runs"]
