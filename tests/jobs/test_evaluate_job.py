"""Scoring saved prompts on another data set: by class name, over several files, honestly."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from learned import NAMES, load_job, write_prompts
from PIL import Image
from samples import ROOT, STUDIES, write_image_folder

from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods.saved import load_prompts
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config import load_config
from ssprompt_platform.final import FinalBench, prompts_path, run_fit
from ssprompt_platform.plan import FitKey
from ssprompt_platform.prepare import prepare
from ssprompt_platform.use.transfer import spread
from ssprompt_platform.use.transfer_table import transfer_tables

COUNT = 4


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job("evaluate")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("prompts")
    return [
        str(write_prompts(folder / f"linear_probe-k2-d{seed}.safetensors", seed=seed))
        for seed in range(2)
    ]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    made = write_image_folder(tmp_path / "data", count=COUNT)
    return [word for word in made if word.startswith("data.")]


def run(job: ModuleType, tmp_path: Path, *words: str) -> dict[str, Any]:
    output = tmp_path / "result.json"
    assert job.main([*words, "--output", str(output), "--overwrite"]) == 0
    return dict(json.loads(output.read_text()))


def same_scores(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    keys = ("miou", "things", "stuff", "iou")
    return all(
        a[k] == b[k] for a, b in zip(left["files"], right["files"], strict=True) for k in keys
    )


def test_scores_are_those_of_the_core(
    job: ModuleType, files: list[str], data: list[str], tmp_path: Path
) -> None:
    found = run(job, tmp_path, "--prompts", *files, "--split", "all", *data)
    assert found["data"]["images"] == COUNT
    segmenter = build_segmenter("small")
    images = sorted((tmp_path / "data" / "images").iterdir())
    labels = [np.array(Image.open(tmp_path / "data" / "labels" / path.name)) for path in images]
    x_B3SS = torch.stack([segmenter.preprocess(np.asarray(Image.open(path))) for path in images])
    embedded = LabelledEmbeddings(
        segmenter.encode_images(x_B3SS), labels, [label.shape for label in labels]
    )
    for path, record in zip(files, found["files"], strict=True):
        model = load_prompts(Path(path)).model(segmenter)
        scores = evaluate(model, embedded, len(NAMES), batch_size=COUNT, device="cpu")
        assert record["miou"] == pytest.approx(scores.miou)
        assert list(record["iou"].values()) == pytest.approx(scores.iou.tolist())
        assert record["things"] == pytest.approx(scores.iou[1:].mean())
        assert record["stuff"] == pytest.approx(scores.iou[0])


def test_classes_are_matched_by_name_in_any_order(
    job: ModuleType, files: list[str], data: list[str], tmp_path: Path
) -> None:
    words = ["--prompts", *files, "--split", "all", *data]
    before = run(job, tmp_path, *words)
    order = [2, 0, 1]  # the new list names the old classes 2, 0 and 1
    (tmp_path / "data" / "classes.txt").write_text("\n".join(NAMES[c] for c in order))
    for path in (tmp_path / "data" / "labels").iterdir():
        old = np.asarray(Image.open(path))
        Image.fromarray(np.argsort(order).astype(np.uint8)[old]).save(path)
    after = run(job, tmp_path, *words)
    assert after["data"]["classes"] == [NAMES[c] for c in order]
    assert same_scores(before, after)


def test_ignored_pixels_are_not_scored(
    job: ModuleType, files: list[str], data: list[str], tmp_path: Path
) -> None:
    words = ["--prompts", files[0], "--split", "all", *data]
    for path in (tmp_path / "data" / "labels").iterdir():
        label = np.array(Image.open(path))
        label[label == 1] = 255
        Image.fromarray(label).save(path)
    record = run(job, tmp_path, *words)["files"][0]
    assert record["iou"]["box"] is None
    assert record["things"] == record["iou"]["ball"]


def test_several_draws_give_mean_and_spread(
    job: ModuleType,
    files: list[str],
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_prompts(tmp_path / "zero.safetensors", "zero_shot")
    words = ["--prompts", *files, str(other), "--split", "all", *data]
    found = run(job, tmp_path, *words)
    probe, zero = found["groups"]
    scores = [record["miou"] for record in found["files"][:2]]
    assert (probe["method"], probe["files"]) == ("linear_probe", 2)
    assert probe["miou"]["mean"] == pytest.approx(np.mean(scores))
    assert probe["miou"]["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert probe["learned_on"]["mean"] == pytest.approx(0.375)
    assert (zero["miou"]["sd"], zero["miou"]["n"]) == (None, 1)
    table = capsys.readouterr().out
    for part in ("linear_probe", "zero_shot", "K = 2", *NAMES, "things", "stuff", "mIoU"):
        assert part in table
    assert f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}" in table


def test_many_methods_are_shown_in_several_tables() -> None:
    group = {"method": "spa", "files": 1, **dict.fromkeys(("miou", "things", "stuff"))}
    group |= {"iou": {"sky": spread([0.5])}, "learned_on": None}
    data = {"name": "d", "split": "test", "images": 1, "classes": ["sky"], "things": []}
    groups = [{**group, "shots": shots} for shots in (1, 2, 4, 8)]
    tables = transfer_tables({"data": data, "groups": groups})
    headers = [str(column.header) for table in tables for column in table.columns]
    assert [h for h in headers if h != "class"] == [f"spa\nK = {k}" for k in (1, 2, 4, 8)]


def test_a_value_that_nothing_shows_has_no_spread() -> None:
    assert spread([None, None]) is None
    found = spread([None, 0.5])
    assert found is not None
    assert (found["mean"], found["n"]) == (0.5, 1)


def test_it_says_where_the_data_is_not_new(
    job: ModuleType,
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = sorted((tmp_path / "data" / "images").iterdir())
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in images}
    (tmp_path / "test.txt").write_text(images[0].stem)
    words = [*data, f"data.test_list={tmp_path / 'test.txt'}"]

    def told(support: dict[str, str], *more: str) -> tuple[str, dict[str, Any]]:
        path = write_prompts(tmp_path / "own.safetensors", support=support)
        found = run(job, tmp_path, "--prompts", str(path), *more, *words)
        return capsys.readouterr().err, found["files"][0]["learned_on"]

    text, record = told({"elsewhere": "0" * 64, images[1].stem: "1" * 64})
    assert text == ""
    assert record["of_them_in_this_data_set"] == 0
    train = {images[1].stem: digests[images[1].stem]}
    text, record = told(train)
    assert "own.safetensors was learned on this very data set" in text
    assert "warning" not in text
    text, record = told(train, "--split", "all")
    assert "up to 1 of the 4 scored images" in text
    # an image that was renamed is the same image
    text, record = told({"renamed": digests[images[0].stem]})
    assert "up to 1 of the 1 scored images" in text
    assert record["of_them_scored_here"] == 1


def test_a_data_group_is_read_from_a_study_file(
    job: ModuleType, files: list[str], data: list[str], tmp_path: Path
) -> None:
    lines = [word.removeprefix("data.").replace("=", ": ", 1) for word in data]
    study = tmp_path / "elsewhere.yaml"
    study.write_text("data:\n" + "".join(f"  {line}\n" for line in lines))
    told = run(job, tmp_path, "--prompts", files[0], "--split", "all", "--data", str(study))
    assert same_scores(told, run(job, tmp_path, "--prompts", files[0], "--split", "all", *data))


@pytest.mark.parametrize(
    ("classes", "parts"),
    [
        (
            "ground\nbox\nbal\n",
            ["'ball' is only in the prompts", "'bal' is only in the data", "did you mean 'bal'?"],
        ),
        ("ground\nbox\nball\nmoon\nsun\n", ["'moon', 'sun' are only in the data set"]),
    ],
)
def test_other_classes_are_named(
    job: ModuleType,
    files: list[str],
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: str,
    parts: list[str],
) -> None:
    (tmp_path / "data" / "classes.txt").write_text(classes)
    assert job.main(["--prompts", files[0], *data]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {files[0]} and the data set")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train.epochs=3"], "'train.epochs=3' plays no part here"),
        (["data.sed=3"], "did you mean 'data.seed'?"),
        (["--data", "nowhere"], "study=nowhere: there is no such study"),
        (["--batch-size", "-2"], "--batch-size is -2"),
    ],
)
def test_mistakes_end_with_one_sentence(
    job: ModuleType,
    files: list[str],
    data: list[str],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    part: str,
) -> None:
    assert job.main(["--prompts", files[0], *data, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert part in error


def test_a_result_is_not_written_over_unasked(
    job: ModuleType, files: list[str], data: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "mine.json"
    output.write_text("mine")
    words = ["--prompts", files[0], "--split", "all", *data, "--output", str(output)]
    assert job.main(words) == 2
    assert output.read_text() == "mine"
    assert job.main([*words, "--overwrite"]) == 0
    assert json.loads(output.read_text())["schema"] == 1


def test_a_final_fit_can_be_scored_again_from_its_file(job: ModuleType, tmp_path: Path) -> None:
    """The file of a fit, made as a study makes it, gives the score that the study had."""
    words = write_image_folder(tmp_path / "data", count=9)
    words += ["study=smoke", f"storage.root={tmp_path / 'runs'}", "train.steps_per_epoch=2"]
    prepared = prepare(load_config(words, STUDIES))
    segmenter = prepared.source.build()
    for image_id in prepared.plan.image_ids():
        x_B3SS = segmenter.preprocess(prepared.dataset.image(image_id))[None]
        prepared.store.put(prepared.dataset.digest(image_id), segmenter.encode_images(x_B3SS)[0])
    bench = Bench(
        prepared.dataset,
        prepared.store,
        prepared.source,
        prepared.texts,
        prepared.config.train,
        Resources(1, 1, 1, 0.0, "cpu"),
    )
    key = FitKey("ssprompt", 2, 1)
    best = {key.group: {"num_prompts": 4, "decoding": "one_pass"}}
    fits = tmp_path / "fits"
    fits.mkdir()
    run_fit(FinalBench(bench, prepared.plan, best, 0, fits, ()), key)
    saved = load_prompts(prompts_path(fits, key))
    support = prepared.plan.draws[1].support[2]
    assert saved.info.support == {i: prepared.dataset.digest(i) for i in support}
    assert (saved.info.method, saved.info.shots, saved.info.draw) == ("ssprompt", 2, 1)
    assert saved.info.hyperparameters["decoding"] == "one_pass"
    assert saved.info.text_encoder == "small"
    assert saved.info.versions["torch"]
    assert saved.segmenter.fingerprint == segmenter.fingerprint
    own = [word for word in words if word.startswith("data.")]
    record = run(job, tmp_path, "--prompts", str(saved.path), *own)["files"][0]
    assert record["miou"] == pytest.approx(saved.info.metrics["miou"], abs=1e-3)
    assert record["learned_on"]["of_them_in_this_data_set"] == len(support)
    assert record["learned_on"]["of_them_scored_here"] == 0


def test_the_job_as_a_process_on_another_procedural_world(tmp_path: Path) -> None:
    names, things = ProceduralDataset.class_names, sorted(ProceduralDataset.thing_classes)
    path = write_prompts(tmp_path / "p.safetensors", "ssprompt", names=names, things=things)
    command = [sys.executable, str(ROOT / "jobs" / "evaluate.py")]
    done = subprocess.run(
        [*command, "--prompts", str(path), "data.seed=7", "data.test_images=4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "4 images" in done.stdout
    assert "evening sky" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_help_teaches_the_job(job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job.main(["--help"])
    assert ended.value.code == 0
    taught = capsys.readouterr().out
    for part in ("matched by name", "--split", "data.key=value"):
        assert part in taught


def test_an_output_that_cannot_be_written_is_told_before_the_scoring(
    job: ModuleType,
    files: list[str],
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    for output, part in ((tmp_path, "is a folder"), (tmp_path / "file" / "x.json", "not a folder")):
        words = ["--prompts", *files, *data, "--output", str(output), "--overwrite"]
        assert job.main(words) == 2
        told = capsys.readouterr()
        assert part in told.err
        assert "scoring" not in told.out
