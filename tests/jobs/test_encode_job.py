"""The job that encodes a study's images ahead of it, on a real cluster."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("encode_job", ROOT / "jobs" / "encode.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["encode_job"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(image_folder: tuple[Path, list[str]], tmp_path: Path) -> list[str]:
    return [
        *image_folder[1],
        f"storage.root={tmp_path / 'runs'}",
        "study.methods=[ssprompt]",
        "study.draws=1",
    ]


@pytest.mark.e2e
def test_images_are_encoded_once_and_no_study_is_begun(
    job: ModuleType,
    words: list[str],
    ray_cluster: None,
    encoder_log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSPROMPT_WAIT_FOR_WORKERS", "60")
    before = encoder_log.read_text().count("image") if encoder_log.exists() else 0
    assert job.main([*words, "train.workers=1", "study.dry_run=true"]) == 0
    planned = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert job.main([*words, "train.workers=1"]) == 0
    out = capsys.readouterr().out
    encoded = encoder_log.read_text().count("image") - before
    assert encoded > 0
    assert f"{encoded} images: {encoded} encoded, 0 stored already" in out
    assert f"{encoded} images, 0 stored already, {encoded} to encode" in planned
    assert job.main([*words, "train.workers=1"]) == 0
    assert f"0 encoded, {encoded} stored already" in capsys.readouterr().out
    assert encoder_log.read_text().count("image") - before == encoded
    kept = {path.name for path in (tmp_path / "runs").iterdir()}
    assert kept <= {"embeddings", "texts", "data"}


def test_a_mistake_is_one_sentence_and_writes_nothing(
    job: ModuleType, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.main([*words, "train.wokers=1"]) == 2
    assert "unknown key 'train.wokers'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_help_teaches(job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "python jobs/encode.py study=shots" in out
    assert "Exit codes" in out
