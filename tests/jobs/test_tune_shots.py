"""The main job as a user meets it: help, mistakes, dry run, explanation, Ctrl-C, SIGTERM."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mlflow import MlflowClient
from PIL import Image
from samples import ROOT

from ssprompt_platform.failures import IncompleteStudyError, StoppedStudyError

JOB = ROOT / "jobs" / "tune_shots.py"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_shots", JOB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoil(folder: Path, mistake: str) -> list[str]:
    """Make one mistake in a good folder; return the words of the study that meets it."""
    labels = sorted((folder / "labels").iterdir())
    if mistake == "missing image folder":
        return [f"data.images={folder / 'nowhere'}"]
    if mistake == "label id out of range":
        Image.new("L", Image.open(labels[0]).size, 9).save(labels[0])
    if mistake == "image without label":
        labels[0].unlink()
    if mistake == "corrupt checkpoint":
        (folder / "sam.pth").write_bytes(b"not a checkpoint")
        return ["model.name=vit_b", f"model.checkpoint={folder / 'sam.pth'}"]
    if mistake == "missing checkpoint":
        return ["model.name=vit_b", f"model.checkpoint={folder / 'sam.pth'}"]
    if mistake == "unknown model":
        return ["model.name=smal"]
    if mistake == "unknown text encoder":
        return ["model.text_encoder=clip"]
    if mistake == "K larger than the pool":
        return ["study.shots=[1,50]"]
    if mistake == "class without a support image":
        (folder / "classes.txt").write_text("ground\nbox\nball\nunicorn\n")
    if mistake == "unknown key":
        return ["train.epoch=3"]
    return []


@pytest.mark.parametrize(
    ("mistake", "parts"),
    [
        ("unknown key", ["train.epoch", "train.epochs"]),
        ("missing image folder", ["data.images", "nowhere"]),
        ("label id out of range", ["frame00.png", "9"]),
        ("image without label", ["frame00.png", "no label"]),
        ("corrupt checkpoint", ["sam.pth"]),
        ("missing checkpoint", ["sam.pth"]),
        ("unknown model", ["smal", "small"]),
        ("unknown text encoder", ["clip"]),
        ("K larger than the pool", ["study.shots", "50"]),
        ("class without a support image", ["unicorn"]),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_nothing_written(
    job: ModuleType,
    image_folder: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
    parts: list[str],
) -> None:
    folder, words = image_folder
    words = ["study=smoke", *words, f"storage.root={tmp_path / 'runs'}", *spoil(folder, mistake)]
    assert job.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    job: ModuleType,
    image_folder: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, words = image_folder
    words = ["study=smoke", *words, f"storage.root={tmp_path / 'runs'}", "study.dry_run=true"]
    assert job.main(words) == 0
    text = capsys.readouterr().out
    for part in ("images encoded", "trials", "final fits", "seconds", "about"):
        assert part in text
    assert not (tmp_path / "runs").exists()


def test_explain_tells_the_protocol_and_writes_nothing(
    job: ModuleType,
    image_folder: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, words = image_folder
    words = ["study=smoke", *words, f"storage.root={tmp_path / 'runs'}"]
    assert job.main([*words, "--explain"]) == 0
    text = capsys.readouterr().out
    for part in ("K = 1", "K = 2", "ssprompt", "test images"):
        assert part in text
    assert not (tmp_path / "runs").exists()
    assert job.main([*words, "--explain", "study.shots=[50]"]) == 2
    assert capsys.readouterr().err.startswith("error: study.shots")


def test_a_mistake_in_study_resume_writes_nothing(
    job: ModuleType,
    image_folder: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, words = image_folder
    words = ["study=smoke", *words, f"storage.root={tmp_path / 'runs'}", "study.resume=must"]
    for more in ([], ["study.id=mine"]):
        assert job.main([*words, *more]) == 2
        assert capsys.readouterr().err.startswith("error: study.resume is must")
    assert not (tmp_path / "runs").exists()


def test_the_command_to_continue_is_what_was_typed_with_the_id(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["study=smoke", "study.id=", "study.resume=never", "search.enqueue=[{lr_weight: 0.2}]"]
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-u", "jobs/tune_shots.py", *words])
    command = job.command_to_continue(words, ("study.id=smoke-1", "study.resume=auto"))
    assert shlex.split(command) == [
        *["python3", "-u", "jobs/tune_shots.py", "study=smoke"],
        *["search.enqueue=[{lr_weight: 0.2}]", "study.id=smoke-1", "study.resume=auto"],
    ]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    command = job.command_to_continue(words, ("study.id=smoke-1",))
    assert command.startswith("ray job submit --working-dir . -- python3 -u jobs/tune_shots.py ")
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "pytest"])
    command = job.command_to_continue([], ("study.id=smoke-1",))
    assert command.endswith("tune_shots.py study.id=smoke-1")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (IncompleteStudyError("2 fits of spa failed"), 1, "incomplete: 2 fits of spa failed\n"),
        (StoppedStudyError("s", ("study.id=s",), 143), 143, "study=smoke study.id=s\n"),
        (KeyboardInterrupt(), 130, "stopped before the study began\n"),
    ],
)
def test_other_ends_have_their_exit_codes(
    job: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def end(*arguments: object) -> None:
        raise error

    # the ends themselves are tried with whole studies below and in the tests of the platform
    monkeypatch.setattr(job, "run_study", end)
    assert job.main(["study=smoke"]) == code
    assert capsys.readouterr().err.endswith(told)


def test_help_and_mistakes_from_another_folder(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(JOB), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "search.trials=" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, str(JOB), "serch.trials=1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown key 'serch'")
    assert "Traceback" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_study_closes_its_runs_and_tells_how_to_continue(
    image_folder: tuple[Path, list[str]], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    _, words = image_folder
    words = [*words, "study=smoke", f"storage.root={tmp_path / 'runs'}"]
    words += ["search.trials=500", "train.epochs=50"]
    process = subprocess.Popen(
        [sys.executable, str(JOB), *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a test run in the background inherits "ignore Ctrl-C", and would hand it on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    database = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"search [1-9]\d*/", line):  # a trial has ended
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    (study,) = (path.parent.name for path in (tmp_path / "runs").glob("*/study.json"))
    command = shlex.split(errors.strip().splitlines()[-1])
    assert command == [sys.executable, str(JOB), *words, f"study.id={study}"]
    again = subprocess.run(
        [*command, "study.dry_run=true"], cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert study in again.stdout
    client = MlflowClient(database)
    (experiment,) = client.search_experiments(filter_string="name = 'ssprompt'")
    runs = client.search_runs([experiment.experiment_id])
    assert runs
    assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
    assert any(run.info.status == "KILLED" for run in runs)
