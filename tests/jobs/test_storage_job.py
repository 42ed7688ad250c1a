"""The storage job as it is typed: its words, what it prints, its exit codes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT
from study_folder import write_study

from ssprompt_platform.storage import S3Path


@pytest.fixture(scope="module")
def job() -> ModuleType:
    """The job as a module, so that most tests need no process of their own."""
    spec = importlib.util.spec_from_file_location("storage_job", ROOT / "jobs" / "storage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two studies, and what was left of a third."""
    root = tmp_path / "runs"
    write_study(root, "ours", methods=["zero_shot", "spa"])
    write_study(root, "new", stage="begun", trials=0)
    left = root / "left" / "draws" / "draw-0.json"
    left.parent.mkdir(parents=True)
    left.write_text("x" * 2048)
    then = time.time() - 2 * 86400
    os.utime(left, (then, then))
    return root


def test_what_is_nobodys_is_deleted_only_when_asked(job, root, capsys) -> None:
    assert job.main(["gc", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "studies without a record" in out
    assert "2.0 KiB" in out
    assert "dry run" in out
    assert (root / "left").is_dir()
    assert job.main(["gc", "--root", str(root), "--delete"]) == 0
    assert "deleted 1 objects, 2.0 KiB" in capsys.readouterr().out
    assert not (root / "left").exists()
    assert job.main(["gc", "--root", str(root), "--delete"]) == 0
    assert (root / "ours" / "study.json").is_file()


def test_what_is_younger_stays(job, root, capsys) -> None:
    assert job.main(["gc", "--root", str(root), "--older-than", "3d", "--delete", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"] == {"objects": 0, "bytes": 0}
    assert told["garbage"][0]["too_young"] == {"objects": 1, "bytes": 2048}
    assert told["deleted"] is True
    assert (root / "left").is_dir()


def test_programs_get_every_name(job, root, capsys) -> None:
    assert job.main(["gc", "--root", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["garbage"][0]["places"] == [str(root / "left" / "draws" / "draw-0.json")]
    assert told["deleted"] is False


def test_what_studies_cost(job, root, capsys) -> None:
    assert job.main(["du", "--root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["study", "begun", "state", "objects", "bytes", "artifacts"]
    assert [line.split()[0] for line in lines[1:5]] == ["new", "ours", "other", "all"]
    assert job.main(["du", "ours", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ours: ")
    assert "fits" in out
    assert job.main(["du", "ours", "--root", str(root), "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    size = sum(path.stat().st_size for path in (root / "ours").rglob("*") if path.is_file())
    assert study["total"]["bytes"] == size


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["du", "our"], "did you mean 'ours'?"),
        (["gc", "--older-than", "soon"], "is no age"),
        (["init", "bucket"], "is no S3 address"),
        (["init", "s3://bucket", "--abort-days", "0"], "--abort-days is 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(job, root, capsys, words, part) -> None:
    where = [] if words[0] == "init" else ["--root", str(root)]
    assert job.main([*words, *where]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert error.count("\n") == 1


def test_a_storage_that_does_not_answer_is_no_mistake_of_the_words(
    job, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert job.main(["init", "s3://bucket"]) == 1
    assert "nothing answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_bucket_from_nothing_to_clean(job, s3_bucket, tmp_path, capsys) -> None:
    root = f"{s3_bucket}-new/prefix"
    # by the command line itself, from another folder
    command = [sys.executable, str(ROOT / "jobs" / "storage.py"), "init", root]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "interrupted uploads end after 7 days" in done.stdout
    (S3Path.parse(root) / "left" / "draws" / "draw-0.json").write_bytes(b"x")
    for words, part in (
        (["gc", "--older-than", "0s"], "studies without a record"),
        (["gc", "--older-than", "0s", "--delete"], "deleted 1 objects"),
        (["du"], "all"),
    ):
        assert job.main([*words, "--root", root]) == 0
        assert part in capsys.readouterr().out
    assert list(S3Path.parse(root).walk()) == []


def test_the_help_teaches(job, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        job.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("init s3://bucket/prefix", "--delete", "AWS_ENDPOINT_URL", "Exit codes"):
        assert word in out
