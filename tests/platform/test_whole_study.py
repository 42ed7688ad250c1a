"""The whole chain on a real local Ray cluster: encode, search, fit, score, report."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from finished_studies import Labels, load, opened_labels
from mlflow import MlflowClient
from rich.console import Console
from safetensors.numpy import load_file
from samples import STUDIES, write_image_folder

from ssprompt_core.errors import UserError
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_platform.launch import run_study
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import StudyFolder

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
FITS = 5
"""Final fits: zero_shot once, spa at two K on two draws each."""


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Attributes:
        folder: Where it is kept.
        text: What it printed.
        encoded: Images that were encoded, in all processes.
        labels: Label files that were opened, in all processes.
    """

    folder: StudyFolder
    text: str
    encoded: int
    labels: Labels


def run(words: list[str], root: Path, study_id: str = "s") -> tuple[StudyFolder, str]:
    console = Console(file=io.StringIO(), width=120)
    words = [*SMALL, *words, f"storage.root={root}", f"study.id={study_id}"]
    folder = run_study(words, STUDIES, console)
    assert isinstance(console.file, io.StringIO)
    return folder, console.file.getvalue()


def results(folder: StudyFolder) -> dict[str, Any]:
    return load(folder.results)


def facts(folder: StudyFolder) -> dict[str, Any]:
    return dict(load(folder.record)["facts"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_image_folder(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def encoded_images(encoder_log: Path) -> Callable[[], int]:
    return lambda: len(encoder_log.read_text().splitlines()) if encoder_log.exists() else 0


@pytest.fixture(scope="module")
def finished(
    data: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    encoded_images: Callable[[], int],
    label_log: Path,
) -> Finished:
    encoded_here = 0
    with pytest.MonkeyPatch.context() as patch:
        original = SamSegmenter.encode_images

        def counted(self, x_B3SS):
            nonlocal encoded_here
            encoded_here += len(x_B3SS)
            return original(self, x_B3SS)

        patch.setattr(SamSegmenter, "encode_images", counted)
        before, opened = encoded_images(), len(opened_labels(label_log))
        folder, text = run(data, tmp_path_factory.mktemp("study") / "runs")
    return Finished(
        folder, text, encoded_images() - before + encoded_here, opened_labels(label_log)[opened:]
    )


def test_results_have_the_documented_form(finished: Finished) -> None:
    folder = finished.folder
    record = results(folder)
    assert set(record) == {
        "schema", "study", "rows", "per_class", "statistics", "search", "front", "failed",
        "missing", "analysis", "versions", "seconds",
    }  # fmt: skip
    assert record["schema"] == 2
    assert record["study"]["finished"]
    assert (record["missing"], record["failed"], record["study"]["remarks"]) == ([], [], [])
    assert record["study"]["protocol"]
    assert record["search"]["trials"] == {"complete": 4}
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
        for name in ("ci95", "bootstrap95"):
            if row["deterministic"]:
                assert row[name] is None
            else:
                assert row[name][0] <= row["mean"] <= row[name][1]
    spa = record["rows"][2]
    assert spa["best"]["num_prompts"] in (2, 4)
    assert spa["trainable_parameters"] > 0
    assert {row["class"] for row in record["per_class"]} == {"ground", "box", "ball"}


def test_each_image_is_encoded_once_in_the_whole_study(
    finished: Finished,
) -> None:
    folder, calls = finished.folder, finished.encoded
    embeddings = results(folder)["study"]["embeddings"]
    assert calls == embeddings["images"] == embeddings["encoder_calls"] > 0
    assert len(list((folder.root / "embeddings").rglob("*.arrow"))) == calls


def test_each_test_label_is_read_once_in_each_final_fit_and_never_else(finished: Finished) -> None:
    test_ids = facts(finished.folder)["test_ids"]
    assert test_ids
    scored: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    for stem, functions in finished.labels:
        if stem not in test_ids:
            continue
        if "build_dataset" in functions:
            checked[stem] += 1
            continue
        # open_test() gives the data away; only the scoring of a final fit may have asked for it
        assert "score_test" in functions, (stem, functions)
        assert functions.index("run_fit") < functions.index("score_test"), (stem, functions)
        scored[stem] += 1
    assert scored == dict.fromkeys(test_ids, FITS)
    # every label was read once when the data was checked, before anything began
    assert checked == dict.fromkeys(test_ids, 1)
    assert not any("build_dataset" in names for _, names in finished.labels[12:])


def test_the_search_reads_labels_of_support_and_selection_images_only(finished: Finished) -> None:
    in_trials = {stem for stem, names in finished.labels if "run_trial" in names}
    draw = json.loads((finished.folder.draws / "draw-0.json").read_text())
    allowed = {i for part in ("support", "selection") for ids in draw[part].values() for i in ids}
    assert in_trials
    assert in_trials <= allowed


def test_prompts_pictures_and_summary_are_there(finished: Finished) -> None:
    folder, text = finished.folder, finished.text
    prompts = sorted(path.name for path in folder.fits.glob("spa-*.safetensors"))
    assert prompts == [f"spa-k{k}-d{d}.safetensors" for k in (1, 2) for d in (0, 1)]
    assert load_file(folder.fits / prompts[0])
    pictures = sorted(path.name for path in folder.pictures.glob("*.png"))
    assert "learning-curve.png" in pictures
    assert len([name for name in pictures if name.startswith("overlay-k2-")]) == 4
    parts = ("zero_shot", "spa", "over 2 support draws", "mlflow ui --backend-store-uri sqlite:///")
    for part in parts:
        assert part in text
    for path in (folder.report / "index.html", folder.results, folder.fits):
        assert str(path) in text
    assert str(folder.path / "analysis.md") in text
    index = (folder.path / "analysis.md").read_text()
    for name in pictures:
        assert f"(pictures/{name})" in index


def test_mlflow_holds_the_study_and_its_trials(finished: Finished) -> None:
    folder = finished.folder
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
    losses = client.get_metric_history(trial.info.run_id, "train.loss")
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
    for place in (folder.report, folder.report / "figures", folder.report / "tables"):
        there = client.list_artifacts(
            parent.info.run_id, f"report/{place.relative_to(folder.report)}".removesuffix("/.")
        )
        assert {Path(entry.path).name for entry in there} == {path.name for path in place.iterdir()}
    assert trial.data.tags["trial.state"] == "complete"


def test_a_finished_study_is_not_repeated(
    finished: Finished,
    data: list[str],
    encoded_images: Callable[[], int],
    label_log: Path,
) -> None:
    folder = finished.folder
    rows = results(folder)["rows"]
    lost = folder.fits / "spa-k2-d1.json"
    lost.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in folder.fits.glob("*.json")}
    before, opened = encoded_images(), len(opened_labels(label_log))
    run(data, folder.root)
    assert results(folder)["rows"] == rows
    assert lost.is_file()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert encoded_images() == before
    assert results(folder)["study"]["embeddings"]["encoder_calls"] == 0
    # one fit was left to do: one more reading of each test label
    test_ids = facts(folder)["test_ids"]
    scored = Counter(
        stem for stem, names in opened_labels(label_log)[opened:] if "score_test" in names
    )
    assert scored == dict.fromkeys(test_ids, 1)


def test_the_same_seed_gives_the_same_table(
    finished: Finished, data: list[str], tmp_path: Path
) -> None:
    folder = finished.folder
    again, _ = run(data, tmp_path / "runs", "other")
    assert results(again)["rows"] == results(folder)["rows"]
    assert results(again)["per_class"] == results(folder)["per_class"]


@pytest.mark.parametrize("word", ["train.epochs=3", "data.seed=5"])
def test_a_changed_study_needs_another_id(finished: Finished, data: list[str], word: str) -> None:
    folder = finished.folder
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    changed = word.split("=")[0].replace(".", r"\.")
    with pytest.raises(UserError, match=rf"(?s)study\.id=s was begun with other .*\n  {changed}: "):
        run([*data, word], folder.root)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_a_trial_on_two_workers_learns_what_one_worker_learns(
    finished: Finished, data: list[str], tmp_path: Path
) -> None:
    words = ["study.methods=[spa]", "study.shots=[2]", "search.trials=1", "study.draws=1"]
    folder, _ = run([*data, *words, "train.workers_per_trial=2"], tmp_path, "w")
    (shared,) = read_trials(folder)
    (alone,) = (t for t in read_trials(finished.folder) if t.key == shared.key)
    assert list((folder.tune).glob(f"{shared.key}-*"))
    assert shared.params == alone.params
    assert shared.state == alone.state == "complete"
    assert shared.value is not None
    # averaged gradients of two halves of a batch differ from the whole batch's by rounding only
    assert shared.value == pytest.approx(alone.value, abs=0.05)
