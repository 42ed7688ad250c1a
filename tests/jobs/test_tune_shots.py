"""The main job as a user meets it: help, mistakes, dry run, Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from mlflow import MlflowClient
from PIL import Image
from samples import ROOT

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
def test_ctrl_c_ends_the_study_and_closes_its_runs(
    image_folder: tuple[Path, list[str]], tmp_path: Path
) -> None:
    _, words = image_folder
    words = [*words, "study=smoke", "study.id=s", f"storage.root={tmp_path / 'runs'}"]
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
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("search trials"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "study.id" in errors
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'ssprompt'")
    runs = client.search_runs([experiment.experiment_id])
    assert runs
    assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
    assert any(run.info.status == "KILLED" for run in runs)
