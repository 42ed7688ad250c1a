"""A learned-prompt file predicts as the fitted model did, and refuses what it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_sam import DIM, coloured_data, small_class_texts, tiny_sam, tiny_segmenter
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, FewShotModel, MethodSettings, build_model
from ssprompt_core.methods.saved import (
    FORMAT,
    PromptInfo,
    SegmenterInfo,
    load_prompts,
    save_prompts,
)
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitSettings, fit

NAMES = ("sky", "road", "car")
SHORT = FitSettings(epochs=1, steps_per_epoch=2, batch_size=2, cells=9)
PROMPTED = [name for name, spec in METHODS.items() if "num_prompts" in spec.hyperparameters]


def info(method: str = "ssprompt", options: MethodSettings | None = None) -> PromptInfo:
    options = options or MethodSettings(num_prompts=4)
    return PromptInfo(
        method=method,
        hyperparameters={n: getattr(options, n) for n in METHODS[method].hyperparameters},
        class_names=NAMES,
        thing_classes=(2,),
        text_encoder="small",
        text_encoder_fingerprint="0" * 64,
        dataset="colours",
        support={"a": "1" * 64},
        shots=1,
        draw=0,
        seed=3,
        metrics={"split": "test", "images": 2, "miou": 0.5, "iou": [0.5, None, 0.5]},
        versions={"torch": torch.__version__},
    )


def build(
    method: str, segmenter: SamSegmenter, text_dim: int, options: MethodSettings
) -> FewShotModel:
    return build_model(method, options, segmenter, small_class_texts(text_dim, NAMES), seed=1)


def trained(
    method: str, text_dim: int = 10, options: MethodSettings | None = None
) -> tuple[FewShotModel, LabelledEmbeddings]:
    native = text_dim == DIM
    segmenter = SamSegmenter(tiny_sam(), name="tiny", native_text=native)
    data = coloured_data(segmenter, num_classes=len(NAMES))
    model = build(method, segmenter, text_dim, options or MethodSettings(num_prompts=4))
    if METHODS[method].uses_support:
        fit(model, data, SHORT)
    return model, data


def logits(model: FewShotModel, data: LabelledEmbeddings) -> Tensor:
    with torch.no_grad():
        return model.class_logits(data.embeddings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "prompts.safetensors"
    save_prompts(path, trained("ssprompt")[0], info())
    return path


@pytest.mark.parametrize("text_dim", [DIM, 10], ids=["native-text", "mapped-text"])
@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_model_has_the_logits_of_the_fitted_one(
    method: str, text_dim: int, tmp_path: Path
) -> None:
    model, data = trained(method, text_dim)
    path = tmp_path / "prompts.safetensors"
    save_prompts(path, model, info(method))
    # another object with the same weights, as in another process
    segmenter = SamSegmenter(tiny_sam(), name="tiny", native_text=text_dim == DIM)
    loaded = load_prompts(path).model(segmenter)
    assert torch.equal(logits(loaded, data), logits(model, data))
    assert loaded.trainable_parameters() == 0


@pytest.mark.parametrize("method", PROMPTED)
def test_the_way_of_decoding_is_kept(method: str, tmp_path: Path) -> None:
    options = MethodSettings(num_prompts=4, decoding="one_pass")
    model, data = trained(method, options=options)
    path = tmp_path / "prompts.safetensors"
    save_prompts(path, model, info(method, options))
    loaded = load_prompts(path).model(tiny_segmenter())
    assert torch.equal(logits(loaded, data), logits(model, data))
    save_prompts(path, model, info(method))
    other = load_prompts(path).model(tiny_segmenter())
    assert not torch.equal(logits(other, data), logits(model, data))


def test_the_file_tells_what_went_into_it(saved: Path) -> None:
    prompts = load_prompts(saved)
    assert prompts.info == info()
    assert prompts.segmenter == SegmenterInfo.of(tiny_segmenter())
    assert prompts.segmenter.preprocessing["image_size"] == 96


def test_what_an_analysis_needs_is_there(saved: Path) -> None:
    tensors = load_prompts(saved).tensors
    for side, count in (("spatial", 4), ("semantic", len(NAMES))):
        z, w = tensors[f"prompts.{side}.fusion.embedding"], tensors[f"resolved.{side}_weight"]
        default = "prompts.spatial.default" if side == "spatial" else "resolved.names"
        mixed = torch.lerp(tensors[default], z, w)
        assert mixed.shape == (count, DIM)
        torch.testing.assert_close(mixed, tensors[f"resolved.{side}"])


def test_equal_models_give_equal_bytes_and_leave_nothing_else(saved: Path, tmp_path: Path) -> None:
    save_prompts(tmp_path / "again.safetensors", trained("ssprompt")[0], info())
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


@pytest.mark.parametrize("text_dim", [512, 768, 1152])
@pytest.mark.parametrize("granularity", ["prompt", "dimension"])
def test_a_file_of_sixteen_prompts_and_eleven_classes_is_below_a_megabyte(
    text_dim: int, granularity: str, tmp_path: Path
) -> None:
    """The sizes of Segment Anything (D = 256) under text encoders of the sizes of CLIP's."""
    segmenter = SamSegmenter(tiny_sam(dim=256), name="wide")
    names = tuple(f"class {c}" for c in range(11))
    options = MethodSettings(num_prompts=16, weight_granularity=granularity)
    texts = small_class_texts(text_dim, names)
    model = build_model("ssprompt", options, segmenter, texts, seed=0)
    path = tmp_path / "prompts.safetensors"
    # K = 16 of eleven classes: as many support images as there can be
    support = {f"a-rather-long-file-name-{n:05d}": "0" * 64 for n in range(176)}
    what = replace(info("ssprompt", options), class_names=names, support=support)
    save_prompts(path, model, what)
    size = path.stat().st_size
    print(f"{text_dim} {granularity}: {size} bytes")  # shown by pytest -s
    assert size < 1_000_000


def test_another_model_is_refused_with_both_names(saved: Path) -> None:
    other = SamSegmenter(tiny_sam(seed=1), name="other")
    with pytest.raises(UserError) as error:
        load_prompts(saved).model(other)
    text = str(error.value)
    for part in (str(saved), "'tiny'", "'other'"):
        assert part in text
    for segmenter in (tiny_segmenter(), other):
        assert segmenter.fingerprint[:12] in text


def test_another_preprocessing_is_another_model(saved: Path) -> None:
    sam = tiny_sam()
    sam.pixel_mean = sam.pixel_mean + 1
    with pytest.raises(UserError, match="needs the segmenter 'tiny'"):
        load_prompts(saved).model(SamSegmenter(sam, name="tiny"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damaged_byte_goes_unnoticed(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(saved.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "prompts.safetensors"
    path.write_bytes(content)
    try:
        loaded = load_prompts(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        # JSON writes some things in two ways; what they mean must be the same
        assert loaded.info == load_prompts(saved).info
        assert loaded.tensors.keys() == load_prompts(saved).tensors.keys()


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_file_that_is_cut_off_is_refused(saved: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(UserError, match="cut off, damaged or of another kind"):
        load_prompts(path)


def rewritten(saved: Path, path: Path, change: dict[str, Any]) -> Path:
    """The file with a changed record and a checksum that fits it."""
    from ssprompt_core.methods import saved as module

    tensors, prompts = load_file(saved), load_prompts(saved)
    record = {"info": vars(prompts.info) | change, "segmenter": vars(prompts.segmenter)}
    content = json.dumps(record)
    header = {"format": FORMAT, "sha256": module._checksum(content, tensors), "content": content}
    save_file(tensors, path, metadata={"ssprompt": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sspromptx"}, "method 'sspromptx', which this version"),
        ({"hyperparameters": {"depth": 3}}, "hyperparameter 'depth', which this version"),
        ({"hyperparameters": {"num_prompts": 0}}, "num_prompts is 0"),
        ({"hyperparameters": {"num_prompts": "four"}}, "wrong hyperparameters"),
        ({"class_names": None}, "class_names=None"),
        ({"seed": "x"}, "seed='x', but must hold a int"),
    ],
)
def test_a_record_of_another_version_is_refused(
    saved: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_prompts(rewritten(saved, tmp_path / "other.safetensors", change))


@pytest.mark.parametrize("change", [{"class_names": ["sky", "road"]}, {"method": "linear_probe"}])
def test_tensors_that_do_not_fit_are_refused(
    saved: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = rewritten(saved, tmp_path / "other.safetensors", change)
    if "method" in change:
        tensors = {n: t for n, t in load_file(saved).items() if n != "resolved.spatial"}
        prompts = load_prompts(path)
        loaded = replace(prompts, tensors=tensors)
    else:
        loaded = load_prompts(path)
    with pytest.raises(UserError, match="does not fit the method"):
        loaded.model(tiny_segmenter())


def test_files_of_other_kinds_and_later_formats_are_refused(saved: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign, metadata={"method": "spa"})
    with pytest.raises(UserError, match="without the entry 'ssprompt'"):
        load_prompts(foreign)
    save_file({"x": torch.zeros(2)}, foreign, metadata={"ssprompt": '{"format": 2}'})
    with pytest.raises(UserError, match="format 2.*up to 1; update"):
        load_prompts(foreign)
    save_file({"x": torch.zeros(2)}, foreign, metadata={"ssprompt": "3"})
    with pytest.raises(UserError, match="not a JSON object"):
        load_prompts(foreign)
    with pytest.raises(UserError, match="nowhere.safetensors is not a file"):
        load_prompts(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("method", ["ssprompt", "token_context", "zero_shot"])
def test_the_text_side_is_kept_as_the_frozen_tokens_of_the_names(
    method: str, tmp_path: Path
) -> None:
    model, _ = trained(method)
    save_prompts(tmp_path / "prompts.safetensors", model, info(method))
    tensors, state = load_prompts(tmp_path / "prompts.safetensors").tensors, model.export()
    names_CD = state["prompts.semantic.text"] @ state["prompts.semantic.map"]
    assert torch.equal(tensors["resolved.names"], names_CD)
    assert not [name for name in tensors if name.endswith((".text", ".map"))]
