"""What runs keep besides numbers: files, data sets, a view, the best prompts as a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from learned import write_prompts
from mlflow import MlflowClient
from PIL import Image
from test_crashes import Fault, Faults, after, before, unanswered
from tracked import EXPERIMENT, KilledError, deliver, found, row, track, trial, until

from ssprompt_core.data.support import SupportDraw
from ssprompt_platform.config.schema import Config, DataConfig
from ssprompt_platform.data_lock import DataLock
from ssprompt_platform.plan import Fold, Group, StudyPlan
from ssprompt_platform.search.records import TrialRecord
from ssprompt_platform.shown import ShownImage
from ssprompt_platform.tracking.artifacts import (
    final_split,
    keep_config,
    keep_split,
    write_overlays,
    write_per_class,
)
from ssprompt_platform.tracking.datasets import dataset_inputs
from ssprompt_platform.tracking.environment import environment
from ssprompt_platform.tracking.model import ALIAS, model_name
from ssprompt_platform.tracking.record import best_group
from ssprompt_platform.tracking.results import class_values, description, final_values
from ssprompt_platform.tracking.view import TAG, view_key, view_link, view_state

LOCK = DataLock(
    "lakes",
    ("water", "sand"),
    {"train": {"a": ("1" * 64, "2" * 64), "b": ("3" * 64, "4" * 64)}, "test": {"c": ("5", "6")}},
)


def small_plan() -> StudyPlan:
    draw = SupportDraw(7, {4: ("a", "b")}, {4: ("c",)})
    group = Group("spa", 4)
    folds = {(0, 4): (Fold(("a", "b"), ("c",)),), (0, 1): (Fold(("a",), ("b",)),)}
    return StudyPlan((draw,), (group,), (group,), (), folds, {4: 3.0}, ("t1", "t2"))


def test_a_trial_keeps_its_configuration_and_split(sqlite_uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "files-of-trial" / "tracking"
    shared: dict[int | str, str] = {
        "": keep_config(folder, {"train": {"epochs": 3}}),
        4: keep_split(folder, Group("", 4), small_plan()),
    }
    with track(sqlite_uri, tmp_path, "files-of-trial", shared=shared) as tracker:
        tracker.started(trial(0))
        tracker.ended(trial(0), "complete", 0.5, None)
    client = MlflowClient(sqlite_uri)
    run_id = found(sqlite_uri, "files-of-trial")[trial(0).key]["id"]
    config = yaml.safe_load(Path(client.download_artifacts(run_id, "config.yaml")).read_text())
    assert config["train"] == {"epochs": 3}
    assert config["trial"]["hyperparameters"]["lr_embedding"] == 0.1
    assert (config["trial"]["method"], config["trial"]["shots"]) == ("spa", 4)
    split = json.loads(Path(client.download_artifacts(run_id, "split.json")).read_text())
    assert split == {
        "shots": 4,
        "draws": [{"draw": 0, "seed": 7, "folds": [{"fit": ["a", "b"], "score": ["c"]}]}],
    }
    # what all trials share is written once, and anew where it is another
    assert keep_config(folder, {"train": {"epochs": 3}}) == shared[""]
    assert keep_config(folder, {"train": {"epochs": 4}}) != shared[""]


def test_files_of_final_fits(tmp_path: Path) -> None:
    split = json.loads(final_split(Group("spa", 4), small_plan()))
    assert split["draws"] == [{"draw": 0, "seed": 7, "fit": ["a", "b"]}]
    assert split["score"] == ["t1", "t2"]
    records = [{"draw": 0, "iou": [0.5, None]}, {"draw": 2, "iou": [0.25, 1.0]}]
    parquet, csv = write_per_class(tmp_path, Group("spa", 4), records, ["water", "sand"])
    table = pq.read_table(parquet).to_pylist()
    assert [(r["draw"], r["class"], r["iou"]) for r in table] == [
        (0, "water", 0.5), (0, "sand", None), (2, "water", 0.25), (2, "sand", 1.0),
    ]  # fmt: skip
    assert csv.read_text().split() == [
        "class,draw", "0,draw", "2", "water,0.5000,0.2500", "sand,,1.0000",
    ]  # fmt: skip
    image = np.full((8, 6, 3), 100, np.uint8)
    label = np.zeros((8, 6), np.uint8)
    names = ["../../x", "plain", "ü" * 300]
    shown = [ShownImage(name, image, label, label, 0.5) for name in names]
    paths = write_overlays(tmp_path / "o", shown)
    assert len({path.name for path in paths}) == 3
    assert {path.parent for path in paths} == {tmp_path / "o"}
    with Image.open(paths[0]) as picture:
        assert picture.size == (3 * 6 + 2 * 4, 8)


def test_the_data_set_is_an_input_of_the_study(sqlite_uri: str, tmp_path: Path) -> None:
    inputs = dataset_inputs(LOCK, DataConfig(kind="folder", images="/i", labels="/l"))
    for _ in range(2):
        with track(sqlite_uri, tmp_path, "data") as tracker:
            tracker.event("dataset", key="study", inputs=inputs)
            tracker.finish([], {})
    run = MlflowClient(sqlite_uri).get_run(found(sqlite_uri, "data")["study"]["id"])
    told = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert len(run.inputs.dataset_inputs) == 2
    assert set(told) == {"training", "testing"}
    assert told["training"].name == "lakes (train)"
    assert told["training"].digest == LOCK.fingerprint(("train",))[:32]
    assert json.loads(told["training"].profile) == {"num_rows": 2, "classes": ["water", "sand"]}
    assert json.loads(told["training"].source)["uri"] == "/i"
    assert [c["name"] for c in json.loads(told["testing"].schema)["mlflow_colspec"]] == [
        "image", "label",
    ]  # fmt: skip


def test_a_view_of_the_columns_that_differ(sqlite_uri: str, tmp_path: Path) -> None:
    state = view_state("abc", ["shots", "lr"], ["selection.miou", "test.miou.mean"])
    with track(sqlite_uri, tmp_path, "view") as tracker:
        tracker.event("view", name=f"{TAG}{view_key('abc')}", state=state)
        until(lambda: tracker.where()["mlflow_view"])
        link = tracker.where()["mlflow_view"]
    experiment = MlflowClient(sqlite_uri).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    kept = json.loads(experiment.tags[f"mlflow.sharedViewState.{view_key('abc')}"])
    assert kept["searchFilter"] == "tags.`study.uid` = 'abc'"
    assert kept["selectedColumns"] == [
        "metrics.`selection.miou`", "metrics.`test.miou.mean`", "params.`shots`", "params.`lr`",
        "tags.`differs`",
    ]  # fmt: skip
    assert link == view_link("http://127.0.0.1:5000", experiment.experiment_id, "view")
    (chart,) = kept["compareRunCharts"]
    assert (chart["selectedParams"], chart["selectedMetrics"]) == (
        ["shots", "lr"],
        ["selection.miou"],
    )
    # the search that the view asks for is one that MLflow understands
    MlflowClient(sqlite_uri).search_runs(
        [experiment.experiment_id], kept["searchFilter"], order_by=[f"{kept['orderByKey']} DESC"]
    )


def test_the_environment_is_plain_json() -> None:
    record = json.loads(json.dumps(environment()))
    assert record["packages"]["mlflow"]
    assert record["machine"]["cpus"] >= 1
    assert set(record) == {"python", "platform", "packages", "git", "machine", "cluster"}


def test_numbers_of_final_fits() -> None:
    records = [
        {"draw": 0, "miou": 0.5, "iou": [0.5, None, 0.2], "history": [{"epoch": 1, "loss": 2.0}],
         "seconds": {"fit": 3.0, "score": 1.0}},
        {"draw": 3, "miou": 0.7, "iou": [0.7, None, 0.4], "history": [{"epoch": 1, "loss": None}]},
    ]  # fmt: skip
    assert final_values({"mean": 0.6, "ci95": None}, records) == {
        ("test.miou.draw", 0): 0.5,
        ("test.miou.draw", 3): 0.7,
        ("fit.seconds", 0): 3.0,
        ("train.loss.draw0", 1): 2.0,
        ("test.miou.mean", 0): 0.6,
    }
    found_values = class_values(["a+", "b", "a*"], records)
    # names that differ in what MLflow refuses stay two
    assert found_values == {
        ("test.iou.a_", 0): pytest.approx(0.6),
        ("test.iou.a_.2", 0): pytest.approx(0.3),
    }
    assert len(class_values([f"c{c}" for c in range(150)], [{"iou": [0.5] * 150}])) == 100


def test_the_description_of_a_study_is_its_table() -> None:
    facts = {"model": "small", "data": "lakes", "test_images": 9, "labelled": {"1": 2, "4": 5}}
    rows = [row(0.5), {**row(0.25), "shots": 1, "ci95": None}]
    text = description(rows, ["spa", "sem"], facts, ["Only two draws."], "/r/index.html")
    assert "| method | K = 1 | K = 4 |" in text
    assert "| spa | 0.250 | 0.500 [0.400, 0.600] |" in text
    assert "| sem |  |  |" in text
    assert "Only two draws." in text


def record(method: str, shots: int, value: float | None, state: Any = "complete") -> TrialRecord:
    return TrialRecord(
        f"{method}-k{shots}", 0, method, shots, state, value, {}, (), {}, None, None, None, None,
        None, None,
    )  # fmt: skip


def test_the_best_model_is_chosen_by_the_search_at_the_largest_k() -> None:
    groups = [Group("spa", 1), Group("spa", 4), Group("sem", 4), Group("spa", 16)]
    trials = [
        record("spa", 1, 0.9),
        record("spa", 4, 0.2),
        record("sem", 4, 0.3),
        record("spa", 4, 0.8, "pruned"),
        record("spa", 16, None, "failed"),
        record("sem", 16, 0.9),  # off the front: not fitted
    ]
    best = best_group(groups, trials)
    assert best is not None
    assert (best.method, best.shots, best.value) == ("sem", 4, 0.3)
    assert best_group(groups, []) is None


def test_names_of_models() -> None:
    assert model_name("", "default") == "ssprompt-default"
    assert model_name("", "my/study: 1") == "ssprompt-my_study_ 1"
    assert model_name("mine", "default") == "mine"


def model_event(prompts: Path, study: str) -> dict[str, Any]:
    return {
        "key": "study", "name": f"model-{study}", "prompts": str(prompts), "checkpoint": None,
        "study": study, "tags": {"study.id": study, "method": "linear_probe", "shots": "4"},
        "about": "the best", "about_name": "of one study",
    }  # fmt: skip


@pytest.mark.parametrize("backend", ["sqlite", "server"])
def test_the_best_prompts_become_one_version(
    backend: str, request: pytest.FixtureRequest, sqlite_uri: str, tmp_path: Path
) -> None:
    uri = sqlite_uri if backend == "sqlite" else request.getfixturevalue("mlflow_server").uri
    study = f"model-{backend}"
    # a study that goes on, and one that is extended
    for seed in (0, 0, 1) if backend == "sqlite" else (0, 1):
        prompts = write_prompts(tmp_path / "p.safetensors", seed=seed)
        with track(uri, tmp_path, study) as tracker:
            tracker.event("model", **model_event(prompts, study))
            tracker.finish([row()], {})
    assert not (tracker.work / "refused.jsonl").exists()
    client = MlflowClient(uri, uri)
    name = f"model-{study}"
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(int(one.version) for one in versions) == [1, 2]
    best = client.get_model_version_by_alias(name, ALIAS)
    assert str(best.version) == "2"
    assert best.run_id == found(uri, study)["study"]["id"]
    assert (best.tags["method"], best.tags["shots"]) == ("linear_probe", "4")
    run = client.get_run(str(best.run_id))
    models = [client.get_logged_model(one.model_id) for one in run.outputs.model_outputs]
    assert [str(one.status) for one in models] == ["READY", "READY"]
    (model,) = (m for m in models if m.tags["prompts.sha256"] == best.tags["prompts.sha256"])
    files = {one.path for one in client.list_logged_model_artifacts(model.model_id)}
    assert "MLmodel" in files
    # what is served is found by the name and the alias alone
    place = client.get_model_version_download_uri(name, best.version)
    assert place.rstrip("/") == model.artifact_location.rstrip("/")


@pytest.mark.parametrize("fault", [before, after, unanswered])
def test_a_fault_while_the_model_is_registered_makes_no_second_one(
    fault: Fault, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its calls in turn, in one study: the prompts are others each time."""

    def write_model(folder: Path, prompts: Path, *rest: Any, **options: Any) -> None:
        folder.mkdir()
        (folder / "MLmodel").write_text(prompts.name)

    monkeypatch.setattr("ssprompt_platform.use.served.write_model", write_model)
    calls = (
        "create_logged_model",
        "log_model_artifacts",
        "finalize_logged_model",
        "log_outputs",
        "create_registered_model",
        "create_model_version",
        "set_registered_model_alias",
    )
    monkeypatch.setattr("test_crashes.WRITES", calls)
    study = f"model-{fault.__name__}"
    faults = Faults(monkeypatch)
    for number in range(1, len(calls) + 1):
        prompts = tmp_path / f"{number}.safetensors"
        prompts.write_bytes(b"%d" % number)
        tracker = track("http://127.0.0.1:9", tmp_path, study)
        tracker.event("model", **model_event(prompts, study))
        tracker.close(0)
        faults.at({number: fault})
        while True:
            try:
                deliver(tracker.work, sqlite_uri, tmp_path, study)
                break
            except KilledError:
                continue
        client = MlflowClient(sqlite_uri)
        versions = client.search_model_versions(f"name = 'model-{study}'")
        assert len(versions) == number, calls[number - 1]
        best = client.get_model_version_by_alias(f"model-{study}", ALIAS)
        assert int(best.version) == number
        assert best.tags["prompts.sha256"] == _digest(prompts)
    assert not (tracker.work / "refused.jsonl").exists()


def test_prompts_that_make_no_model_are_refused(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"no prompts")
    said: list[str] = []
    with track(sqlite_uri, tmp_path, "odd-model", say=said.append) as tracker:
        tracker.event("model", **model_event(tmp_path / "odd", "odd-model"))
        tracker.event("model", **model_event(tmp_path / "gone", "odd-model"))
        tracker.finish([], {})
    assert found(sqlite_uri, "odd-model")["study"]["status"] == "FINISHED"
    assert "no model can be made of them" in said[0]
    assert "is not there any more" in said[1]


def test_every_option_of_tracking_may_change_between_two_parts_of_a_study() -> None:
    from ssprompt_platform.changes import changes_of
    from ssprompt_platform.identity import flat_config

    one, two = Config(), Config()
    two.tracking.must_answer, two.tracking.patience = False, 1.0
    two.tracking.register, two.tracking.model, two.tracking.uri = False, "m", "http://x"
    two.tracking.experiment = "other"
    assert not changes_of(flat_config(one), flat_config(two))


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
