"""Learned prompts as an MLflow model: what is in it, what it takes, and where weights come from."""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from learned import NAMES, other_checkpoint, write_prompts
from mlflow.exceptions import MlflowException
from PIL import Image
from samples import ROOT

from ssprompt_core.errors import UserError
from ssprompt_core.methods import build_model
from ssprompt_core.methods.saved import load_prompts, save_prompts
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.small_sam import DEFAULT_WEIGHTS
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.registry import build_text_encoder
from ssprompt_platform.use import served
from ssprompt_platform.use.served import describe, write_model

PICTURE = pd.DataFrame({"image": [np.full((20, 30, 3), 90, np.uint8)]})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "ssprompt-k2-d0.safetensors")


@pytest.fixture(scope="module")
def model(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    write_model(folder, prompts)
    return folder


def load(model: Path, **config: str) -> Any:
    return mlflow.pyfunc.load_model(str(model), model_config=config)


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model puts its code first on the path; other tests must not find it there."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("CHECKPOINT", "DEVICE", "MAX_PIXELS"):
        monkeypatch.delenv(f"SSPROMPT_{name}", raising=False)


def test_what_is_in_a_model(prompts: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_model(model, prompts)
    files = {path.relative_to(model): path for path in model.rglob("*") if path.is_file()}
    mine = {name for name in files if name.parts[0] != "code"}
    assert {str(name) for name in mine} == {
        "MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "served_model.py",
        "input_example.json", "serving_input_example.json",
        "artifacts/about.json", "artifacts/prompts.safetensors",
    }  # fmt: skip
    for name, path in files.items():
        content = path.read_bytes()
        assert not re.match(rb"\x80[\x02-\x05]", content), f"{name} is a pickle"
        assert not content.startswith(b"PK"), f"{name} is a zip, as torch packs pickles"
        assert path.suffix not in {".pkl", ".pickle", ".pth", ".pt", ".bin", ".joblib", ".npy"}
    record = "".join(files[name].read_text() for name in mine if name.suffix != ".safetensors")
    for place in (ROOT, tmp_path, prompts.parent, Path(sysconfig.get_path("purelib"))):
        assert str(place) not in record
    requirements = (model / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", line) for line in requirements), requirements
    assert {line.partition("==")[0] for line in requirements} == {
        "mlflow", "numpy", "pandas", "pillow", "safetensors", "segment-anything", "torch",
        "torchvision",
    }  # fmt: skip
    artifact = model / "artifacts" / "prompts.safetensors"
    assert artifact.read_bytes() == prompts.read_bytes()


def test_a_place_that_mlflow_takes_for_an_address_does_no_harm(
    prompts: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a b#c%20d?e"
    odd.mkdir()
    shutil.copyfile(prompts, odd / "prompts#1.safetensors")
    write_model(odd / "model", odd / "prompts#1.safetensors")
    # MLflow loads no model from such a place, whoever wrote it
    (odd / "model").rename(tmp_path / "model")
    assert len(load(tmp_path / "model").predict(PICTURE)) == 1


def test_the_input_example_is_answered(model: Path) -> None:
    loaded = load(model)
    assert loaded.input_example is not None
    (row,) = loaded.predict(loaded.input_example).to_dict("records")
    with Image.open(io.BytesIO(base64.b64decode(row["mask_png"]))) as mask:
        assert mask.size == (48, 32)
    assert loaded.predict(pd.DataFrame({"image": []}, dtype=object)).empty


def test_a_lock_file_of_the_working_directory_is_not_taken_along(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uv.lock").write_text("version = 1\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'theirs'\nversion = '1'\n")
    monkeypatch.chdir(tmp_path)
    write_model(Path("model"), prompts)
    assert not list(Path("model").glob("*.lock"))
    assert not list(Path("model").glob("*.toml"))
    assert not list(tmp_path.glob(".model*"))


def png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (b"no picture", "row 1 of 'image' is not a readable image: cannot identify image file"),
        (b"", "row 1 of 'image' is not a readable image"),
        (png(NOISE)[:900], "row 1 of 'image' is not a readable image"),
        ("/tmp/a picture.png", "row 1 of 'image' is text that is not base64"),
        (png(np.zeros((20, 20), np.uint16)), "row 1 of 'image' has pixels of kind I;16"),
        (png(np.zeros((4, 4000, 3), np.uint8)), "row 1 of 'image' is 4000 x 4 pixels, too narrow"),
        (np.zeros((9, 9), np.uint8), "row 1 of 'image' is an array of uint8 [9, 9], but pixels"),
        (np.zeros((9, 9, 3)), "row 1 of 'image' is an array of float64 [9, 9, 3], but pixels"),
        (None, "row 1 of 'image' is of type NoneType, but must be a picture file's bytes"),
    ],
    ids=["bytes", "empty", "cut off", "path", "16 bits", "thin", "2-D", "floats", "none"],
)
def test_what_is_no_picture_is_told_in_one_sentence(model: Path, cell: Any, sentence: str) -> None:
    loaded = load(model)
    with pytest.raises(MlflowException) as raised:
        loaded.predict(pd.DataFrame({"image": [np.zeros((9, 9, 3), np.uint8), cell]}))
    assert sentence in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"device": "tpu"}, "model_config['device'] is 'tpu', but must be auto, cpu or cuda"),
        ({"max_pixels": "many"}, "model_config['max_pixels'] is 'many', but must be a whole"),
        ({"checkpoint": "nowhere.pth"}, "weights model_config['checkpoint'] names; model.check"),
        pytest.param(
            {"device": "cuda"},
            "model_config['device'] is cuda, but torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(
    model: Path, config: dict[str, str], sentence: str
) -> None:
    with pytest.raises(MlflowException) as raised:
        load(model, **config)
    assert sentence in raised.value.message
    assert "\n" not in raised.value.message


def test_a_small_file_with_a_huge_picture_is_refused_before_it_is_unpacked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = png(np.zeros((8_000, 8_000, 3), np.uint8))
    with pytest.raises(MlflowException, match="8000 x 8000 pixels, but this model takes at most"):
        load(model).predict(pd.DataFrame({"image": [bomb]}))
    monkeypatch.setenv("SSPROMPT_MAX_PIXELS", "99")
    loaded = load(model)
    with pytest.raises(MlflowException, match="takes at most 99 in a picture"):
        loaded.predict(pd.DataFrame({"image": [np.zeros((10, 10, 3), np.uint8)]}))


Own = tuple[Path, Path]


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """Prompts of a small SAM with other weights than the shipped ones, and these weights."""
    folder = tmp_path_factory.mktemp("own")
    checkpoint = other_checkpoint(folder / "mine.safetensors")
    texts = ClassTexts.of(lambda: build_text_encoder("small"), NAMES)
    segmenter = build_segmenter("small", checkpoint)
    model = build_model("zero_shot", MethodSettings(num_prompts=4), segmenter, texts, seed=0)
    like = load_prompts(write_prompts(folder / "like.safetensors", "zero_shot")).info
    save_prompts(folder / "own.safetensors", model, replace(like, draw=3))
    return folder / "own.safetensors", checkpoint


def test_small_weights_are_in_the_model(own_weights: Own, tmp_path: Path) -> None:
    prompts, checkpoint = own_weights
    write_model(tmp_path / "model", prompts, checkpoint)
    held = tmp_path / "model" / "artifacts" / "weights"
    assert {path.name for path in held.iterdir()} == {"weights.safetensors", "weights.json"}
    loaded = load(tmp_path / "model")
    assert len(loaded.predict(PICTURE)) == 1


def test_large_weights_are_named_and_given_at_loading(
    own_weights: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "MOST_BYTES", 1000)
    prompts, checkpoint = own_weights
    write_model(tmp_path / "model", prompts, checkpoint)
    assert not (tmp_path / "model" / "artifacts" / "weights").exists()
    with pytest.raises(MlflowException) as raised:
        load(tmp_path / "model")
    for part in (
        "needs the weights of the segmenter 'small' (fingerprint",
        "set SSPROMPT_CHECKPOINT, or model_config['checkpoint'] of load_model, to the path of "
        "mine.safetensors (SHA-256 ",
    ):
        assert part in raised.value.message
    for given in ways_to_give(checkpoint, monkeypatch):
        assert len(load(tmp_path / "model", **given).predict(PICTURE)) == 1
    for given in ways_to_give(DEFAULT_WEIGHTS, monkeypatch):
        with pytest.raises(MlflowException, match="needs the segmenter 'small'.* but was given"):
            load(tmp_path / "model", **given)


def ways_to_give(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The words for ``load``, in which the second way needs none."""
    yield {"checkpoint": str(checkpoint)}
    monkeypatch.setenv("SSPROMPT_CHECKPOINT", str(checkpoint))
    yield {}
    monkeypatch.delenv("SSPROMPT_CHECKPOINT")


def test_the_variable_is_not_for_models_that_hold_their_weights(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSPROMPT_CHECKPOINT", "/nowhere/sam_vit_b.pth")
    assert len(load(model).predict(PICTURE)) == 1


def test_a_checkpoint_that_is_a_pickle_is_never_copied(prompts: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "sam_vit_x.pth")
    write_model(tmp_path / "model", prompts, tmp_path / "sam_vit_x.pth")
    assert not list((tmp_path / "model").rglob("*.pth"))
    with pytest.raises(MlflowException, match=r"to the path of sam_vit_x\.pth \(SHA-256 [0-9a-f]"):
        load(tmp_path / "model")


def test_a_folder_of_weights_is_held_without_its_pickles(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sam"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "pytorch_model.bin"):
        (folder / name).write_bytes(b"{}")
    saved = load_prompts(prompts)
    assert describe(saved, folder)["checkpoint"] == {"file": "sam", "sha256": ""}
    (folder / "model.safetensors").write_bytes(b"12345678")
    assert describe(saved, folder)["checkpoint"] is None
    assert "pytorch_model.bin" not in served.weight_files(folder)
    monkeypatch.setattr(served, "MOST_BYTES", 11)
    assert describe(saved, folder)["checkpoint"] == {"file": "sam", "sha256": ""}


def test_mistakes_at_writing_leave_nothing(model: Path, own_weights: Own, tmp_path: Path) -> None:
    prompts, _ = own_weights
    with pytest.raises(UserError, match="needs the segmenter"):
        write_model(tmp_path / "model", prompts)
    with pytest.raises(UserError, match="checkpoint is '.*nowhere', which does not exist"):
        write_model(tmp_path / "model", prompts, tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a file"):
        write_model(tmp_path / "model", tmp_path / "nowhere.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="exists, but a model must be written to a new folder"):
        write_model(model, prompts)
