"""The whole chain on a real local Ray cluster: encode, search, fit, score, report."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from rich.console import Console
from safetensors.numpy import load_file
from samples import STUDIES, write_image_folder

import ssprompt_platform.study
from ssprompt_core.errors import UserError
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_platform.sources import WithoutTest
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.study import run_study

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]

SMALL = [
    "study=smoke",
    "study.methods=[zero_shot,spa]",
    "search.trials=2",
    "train.epochs=2",
    "train.steps_per_epoch=2",
    "train.batch_size=2",
    "search.space.num_prompts.choices=[2,4]",
]


def run(words: list[str], root: Path, study_id: str = "s") -> tuple[StudyFolder, str]:
    console = Console(file=io.StringIO(), width=120)
    words = [*SMALL, *words, f"storage.root={root}", f"study.id={study_id}"]
    folder = run_study(words, STUDIES, console)
    assert isinstance(console.file, io.StringIO)
    return folder, console.file.getvalue()


def results(folder: StudyFolder) -> dict[str, Any]:
    return dict(json.loads(folder.results.read_text()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_image_folder(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def encoded_images(encoder_log: Path) -> Callable[[], int]:
    return lambda: len(encoder_log.read_text().splitlines()) if encoder_log.exists() else 0


@pytest.fixture(scope="module")
def finished(
    data: list[str], tmp_path_factory: pytest.TempPathFactory, encoded_images: Callable[[], int]
) -> tuple[StudyFolder, str, int]:
    """A finished study, what it printed and how many images were encoded in all processes."""
    encoded_here = 0
    with pytest.MonkeyPatch.context() as patch:
        original = SamSegmenter.encode_images

        def counted(self, x_B3SS):
            nonlocal encoded_here
            encoded_here += len(x_B3SS)
            return original(self, x_B3SS)

        patch.setattr(SamSegmenter, "encode_images", counted)
        before = encoded_images()
        folder, text = run(data, tmp_path_factory.mktemp("study") / "runs")
    return folder, text, encoded_images() - before + encoded_here


def test_results_have_the_documented_form(finished: tuple[StudyFolder, str, int]) -> None:
    folder, _, _ = finished
    record = results(folder)
    assert set(record) == {
        "schema", "study", "rows", "per_class", "analysis", "versions", "seconds",
    }  # fmt: skip
    assert record["schema"] == 1
    assert json.loads((folder.root / "latest" / "results.json").read_text()) == record
    assert [(r["method"], r["shots"]) for r in record["rows"]] == [
        ("zero_shot", 1),
        ("zero_shot", 2),
        ("spa", 1),
        ("spa", 2),
    ]
    for row in record["rows"]:
        assert (row["metric"], row["split"]) == ("miou", "test")
        count = 1 if row["deterministic"] else 2
        assert len(row["draws"]) == count
        assert all(0 <= value <= 1 for value in row["draws"])
        assert row["mean"] == pytest.approx(sum(row["draws"]) / count)
        if row["deterministic"]:
            assert row["ci95"] is None
        else:
            assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
    spa = record["rows"][2]
    assert spa["best"]["num_prompts"] in (2, 4)
    assert spa["trainable_parameters"] > 0
    assert {row["class"] for row in record["per_class"]} == {"ground", "box", "ball"}


def test_each_image_is_encoded_once_in_the_whole_study(
    finished: tuple[StudyFolder, str, int],
) -> None:
    folder, _, calls = finished
    embeddings = results(folder)["study"]["embeddings"]
    assert calls == embeddings["images"] == embeddings["encoder_calls"] > 0
    assert len(list((folder.root / "embeddings").rglob("*.arrow"))) == calls


def test_prompts_pictures_and_summary_are_there(finished: tuple[StudyFolder, str, int]) -> None:
    folder, text, _ = finished
    prompts = sorted(path.name for path in folder.fits.glob("spa-*.safetensors"))
    assert prompts == [f"spa-k{k}-d{d}.safetensors" for k in (1, 2) for d in (0, 1)]
    assert load_file(folder.fits / prompts[0])
    pictures = sorted(path.name for path in folder.pictures.glob("*.png"))
    assert "learning-curve.png" in pictures
    assert len([name for name in pictures if name.startswith("overlay-k2-")]) == 4
    for part in ("zero_shot", "spa", "n=2", "mlflow ui --backend-store-uri sqlite:///"):
        assert part in text
    assert str(folder.fits) in text
    assert str(folder.pictures) in text
    assert str(folder.path / "analysis.md") in text


def test_mlflow_holds_the_study_and_its_trials(finished: tuple[StudyFolder, str, int]) -> None:
    folder, _, _ = finished
    client = MlflowClient(f"sqlite:///{folder.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ssprompt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`study.id` = 's'")
    keys = sorted(run.data.tags["trial.key"] for run in runs)
    trials = [f"spa-k{k}-t00{n}" for k in (1, 2) for n in (0, 1)]
    finals = [f"{m}-k{k}-final" for m in ("spa", "zero_shot") for k in (1, 2)]
    assert keys == sorted(["study", *trials, *finals])
    assert {run.info.status for run in runs} == {"FINISHED"}
    trial = next(run for run in runs if run.data.tags["trial.key"] == trials[0])
    losses = client.get_metric_history(trial.info.run_id, "loss")
    assert [metric.step for metric in losses] == [1, 2]
    parent = next(run for run in runs if run.data.tags["trial.key"] == "study")
    kept = {
        place: {Path(f.path).name for f in client.list_artifacts(parent.info.run_id, place)}
        for place in ("", "pictures", "tables")
    }
    assert {"analysis.md", "results.json"} <= kept[""]
    assert kept["pictures"] == {path.name for path in folder.pictures.glob("*.png")}
    assert {"per-class.png", "weights.png", "failures.png", "attention.png"} < kept["pictures"]
    assert kept["tables"] == {path.name for path in (folder.path / "tables").glob("*.csv")}


def test_a_finished_study_is_not_repeated(
    finished: tuple[StudyFolder, str, int],
    data: list[str],
    encoded_images: Callable[[], int],
) -> None:
    folder, _, _ = finished
    rows = results(folder)["rows"]
    lost = folder.fits / "spa-k2-d1.json"
    lost.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in folder.fits.glob("*.json")}
    before = encoded_images()
    run(data, folder.root)
    assert results(folder)["rows"] == rows
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert encoded_images() == before
    assert results(folder)["study"]["embeddings"]["encoder_calls"] == 0


def test_the_same_seed_gives_the_same_table(
    finished: tuple[StudyFolder, str, int], data: list[str], tmp_path: Path
) -> None:
    folder, _, _ = finished
    again, _ = run(data, tmp_path / "runs", "other")
    assert results(again)["rows"] == results(folder)["rows"]
    assert results(again)["per_class"] == results(folder)["per_class"]


@pytest.mark.parametrize("word", ["train.epochs=3", "data.seed=5"])
def test_a_changed_study_needs_another_id(
    finished: tuple[StudyFolder, str, int], data: list[str], word: str
) -> None:
    folder, _, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    with pytest.raises(UserError, match=rf"study\.id=s was begun with {word.split('=')[0]}="):
        run([*data, word], folder.root)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_a_trial_on_two_workers_learns_what_one_worker_learns(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = ssprompt_platform.study.run_search

    def spy(searcher, tools, *rest):
        seen.append(tools)
        return original(searcher, tools, *rest)

    monkeypatch.setattr(ssprompt_platform.study, "run_search", spy)
    words = [*data, "study.methods=[spa]", "study.shots=[2]", "search.trials=1", "study.draws=1"]
    values = []
    for workers in (1, 2):
        folder, _ = run([*words, f"train.workers_per_trial={workers}"], tmp_path, f"w{workers}")
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder.optuna}")
        study = optuna.load_study(study_name=f"w{workers}/spa-k2", storage=storage)
        values.append(study.best_value)
    assert (tmp_path / "w2" / "ray").glob("trial-*")
    assert all(isinstance(tools.bench.dataset, WithoutTest) for tools in seen)
    assert all(math.isfinite(value) for value in values)
    # averaged gradients of two halves of a batch differ from the whole batch's by rounding only
    assert values[0] == pytest.approx(values[1], abs=0.05)
