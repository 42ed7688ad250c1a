"""The report job: one study or two, from their folders alone, at any stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT
from study_folder import write_study

from ssprompt_platform.report.reporting import find_study
from ssprompt_platform.storage import StudyFolder, write_json


@pytest.fixture(scope="module")
def job() -> object:
    """The job as a module, so that most tests need no process of their own."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("report_job", ROOT / "jobs" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of the same images, one of others, and one that has just begun."""
    root = tmp_path_factory.mktemp("runs")
    methods = ["zero_shot", "spa", "ssprompt"]
    write_study(root, "ours", methods=methods, failed=[("spa", 4, 1)], remarks=["on a holdout"])
    write_study(root, "better", methods=methods, trials=0, better=0.06)
    write_study(root, "streets", methods=methods, trials=0, data="streets")
    write_study(root, "new", stage="begun")
    return root


def run(job, root: Path, *words: str) -> int:
    code: int = job.main([*words, "--root", str(root)])
    return code


def test_a_study_has_its_report_from_its_folder_alone(job, root, tmp_path, capsys) -> None:
    assert run(job, root, "ours", "--output", str(tmp_path / "out")) == 0
    text = capsys.readouterr().out
    for part in (
        "mIoU of small on 6 test images of scenes",
        "on a holdout",
        "ssprompt is better than spa at K = 16",
        "ssprompt is better than zero_shot at K = 16",
        "out of memory: 3 images a step did not fit",
        "the loss is not a number at epoch 3",
        "1 of 5 final fits of spa at K = 4 failed: its scores are over 4.",
        "ssprompt: .5",
        str(tmp_path / "out" / "index.html"),
    ):
        assert part in text
    names = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.parquet")}
    assert names == {
        f"tables/{name}.parquet" for name in ("rows", "scores", "comparisons", "curves", "trials")
    }
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000
    assert list((tmp_path / "out" / "figures").glob("*.png"))
    assert not (root / "ours" / "report").exists()


def test_a_study_that_has_just_begun_has_a_report_that_says_so(job, root, capsys) -> None:
    assert run(job, root, "new") == 0
    text = capsys.readouterr().out
    assert "new has no scores yet" in text
    assert "No search trial has ended yet." in text
    assert (root / "new" / "report" / "index.html").is_file()


def test_targets_are_answered_or_refused_for_each_method(job, root, tmp_path, capsys) -> None:
    words = ["better", "--output", str(tmp_path), "--target", "0.45", "0.9"]
    assert run(job, root, *words) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    found = [line for line in lines if line.startswith(("ssprompt: .", "spa: ."))]
    assert [line.split()[:2] for line in found] == [
        [f"{method}:", target] for method in ("spa", "ssprompt") for target in (".450", ".900")
    ]
    assert ".450 mIoU needs K = " in found[2]
    assert "labelled images" in found[2]
    assert "not reached" in found[3] or "not answered" in found[3]


def test_two_studies_are_compared(job, root, tmp_path, capsys) -> None:
    assert run(job, root, "better", str(root / "ours"), "--output", str(tmp_path)) == 0
    text = capsys.readouterr().out
    for part in (
        "better minus ours on the same support draws",
        "ssprompt at K = 16 is better in better than in ours by .0",
        "search.trials: 0 | 6",
        "Missing in ours",
        str(tmp_path / "compare-ours.html"),
    ):
        assert part in text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["compare-ours.html"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["our"], "there is no study 'our' in {root} (did you mean 'ours'?); studies there are "
                  "better, new, ours, streets"),
        (["ours", "streets"], "ours and streets cannot be compared: the images, labels or classes "
                              "differ (scenes, 4 classes; streets, 4 classes)"),
        (["ours", "ours"], "ours and ours cannot be compared: they are the same study; name two"),
        (["ours", "--target", "40"], "--target is 40, but must be an mIoU between 0 and 1"),
        (["{root}"], "{root} holds no study.json, so it is no study's folder"),
        (["ours", "--output", "{root}/ours/study.json"],
         "--output is {root}/ours/study.json, which is a file; name a folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_write_nothing(
    job, root: Path, words: list[str], sentence: str, capsys
) -> None:
    before = {path for path in root.rglob("*") if path.parent.name != "new"}
    assert run(job, root, *(word.format(root=root) for word in words)) == 2
    output = capsys.readouterr()
    assert output.err == f"error: {sentence.format(root=root)}\n"
    assert output.out == ""
    assert {path for path in root.rglob("*") if path.parent.name != "new"} == before


def test_a_study_is_found_by_id_by_path_and_from_its_own_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = StudyFolder(root.resolve(), "ours")
    monkeypatch.chdir(root / "ours" / "fits")
    for word in ("ours", str(root / "ours"), f"{root}/ours/", ".."):
        assert find_study(word, str(root)) == here
    monkeypatch.chdir(root / "ours")
    assert find_study(".", "nowhere") == here


def test_a_study_of_an_older_version_is_told(job, tmp_path: Path, capsys) -> None:
    folder = StudyFolder(tmp_path, "old")
    write_json(folder.record, {"config": {}, "fingerprints": {}})
    assert run(job, tmp_path, "old") == 2
    assert "was written by an older version" in capsys.readouterr().err


def test_the_command_teaches_and_starts_neither_cluster_nor_model(
    root: Path, tmp_path: Path
) -> None:
    script = str(ROOT / "jobs" / "report.py")
    shown = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, check=True
    )
    assert "python jobs/report.py runs/ours --target 0.4 0.5" in shown.stdout
    # from another folder, without MLflow, and no cluster is there afterwards
    check = (
        "import sys; sys.modules['mlflow'] = None;"
        f"sys.path.insert(0, {str(ROOT / 'jobs')!r}); import report;"
        f"code = report.main(['new', '--root', {str(root)!r}, '--output', 'out']);"
        "ray = sys.modules.get('ray');"
        "sys.exit(code or (3 if ray is not None and ray.is_initialized() else 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "index.html").is_file()
