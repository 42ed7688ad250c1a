"""Every method trains exactly what it documents, leaves the pretrained model alone, and loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sam import DIM, coloured_data, small_class_texts, tiny_sam
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, FewShotModel, MethodSettings, build_model
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.text.small import CONTEXT_DIM
from ssprompt_core.train.fit import FitSettings, fit

NAMES = ("sky", "road", "car")
C, N = len(NAMES), 4
SETTINGS = MethodSettings(num_prompts=N)
SHORT = FitSettings(epochs=1, steps_per_epoch=3, batch_size=2, cells=9)
TRAINED = [name for name, spec in METHODS.items() if spec.uses_support]


class Lab:
    """A frozen segmenter, a frozen text encoder and labelled embeddings."""

    def __init__(self, text_dim: int) -> None:
        self.native = text_dim == DIM
        self.segmenter = SamSegmenter(tiny_sam(), name="tiny", native_text=self.native)
        self.text_dim = text_dim
        self.texts = small_class_texts(text_dim, NAMES)
        self.words = self.texts.source().model
        self.data = coloured_data(self.segmenter, num_classes=C)

    def build(
        self, method: str, settings: MethodSettings = SETTINGS, seed: int = 0
    ) -> FewShotModel:
        return build_model(method, settings, self.segmenter, self.texts, seed=seed)

    def trained(
        self, method: str, settings: MethodSettings = SETTINGS, seed: int = 0, fit_seed: int = 0
    ) -> FewShotModel:
        model = self.build(method, settings, seed)
        if METHODS[method].uses_support:
            fit(model, self.data, replace(SHORT, seed=fit_seed))
        return model

    def logits(self, model: FewShotModel) -> Tensor:
        with torch.no_grad():
            return model.class_logits(self.data.embeddings)

    def frozen(self) -> dict[str, Tensor]:
        state = self.segmenter.state_dict() | self.words.state_dict(prefix="text.")
        return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module", params=[DIM, 10], ids=["native-text", "mapped-text"])
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(request.param)


def formula(method: str, lab: Lab, granularity: str) -> int:
    width = 1 if granularity == "prompt" else DIM
    text_map = 0 if lab.native else lab.text_dim * DIM
    family, _, part = method.partition("_")
    if family in ("spa", "sem", "ssprompt"):
        count = {"spa": N, "sem": C, "ssprompt": N + C}[family]
        each = {"": DIM + width, "embedding_only": DIM, "weight_only": width}[part]
        return count * each + (text_map if family != "spa" else 0)
    return {
        "zero_shot": 0,
        "template_ensemble": 0,
        "prototype": 0,
        "linear_probe": C * (DIM + 1),
        "xy_points": 2 * N,
        "token_context": SETTINGS.context_length * CONTEXT_DIM + text_map,
    }[method]


@pytest.mark.parametrize("method", METHODS)
def test_no_pretrained_number_changes_by_a_bit(method: str, lab: Lab) -> None:
    before = lab.frozen()
    model = lab.build(method)
    buffers = {n: b.clone() for n, b in model.named_buffers() if n.startswith("prompts.")}
    starts = {n: p.detach().clone() for n, p in model.named_parameters()}
    if METHODS[method].uses_support:
        fit(model, lab.data, SHORT)
    lab.logits(model)
    for name, tensor in lab.frozen().items():
        assert torch.equal(tensor, before[name]), name
    for part in (*lab.segmenter.parameters(), *lab.words.parameters()):
        assert part.grad is None
        assert not part.requires_grad
    for name, buffer in model.named_buffers():
        if name in buffers:
            assert torch.equal(buffer, buffers[name]), name
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, starts[name]), f"{name} did not learn"


@pytest.mark.parametrize("granularity", ["prompt", "dimension"])
@pytest.mark.parametrize("method", METHODS)
def test_the_trained_numbers_are_the_documented_ones(
    method: str, granularity: str, lab: Lab
) -> None:
    model = lab.build(method, replace(SETTINGS, weight_granularity=granularity))
    count = model.trainable_parameters()
    print(f"{method} trains {count} numbers")  # shown by pytest -s
    assert count == formula(method, lab, granularity)
    grouped = [p for group in model.parameter_groups() for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(set(map(id, grouped)))
    assert METHODS[method].uses_support == (count > 0 or method == "prototype")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_exported_loads_and_predicts_equally(method: str, lab: Lab) -> None:
    model = lab.trained(method, seed=1)
    exported = model.export()
    assert all(not t.requires_grad and t.device.type == "cpu" for t in exported.values())
    other = lab.build(method, seed=2)
    state = {k: v for k, v in exported.items() if not k.startswith("resolved.")}
    other.load_state_dict(state)
    assert torch.equal(lab.logits(other), lab.logits(model))
    if "resolved.spatial" in exported:
        spatial = exported["resolved.spatial"].expand(C, -1, -1)
        tokens = torch.cat([spatial, exported["resolved.semantic"][:, None]], dim=1)
        with torch.no_grad():
            assert torch.equal(lab.segmenter.decode(lab.data.embeddings, tokens), lab.logits(model))
    before = lab.logits(model)
    for tensor in exported.values():
        tensor.zero_()
    assert torch.equal(lab.logits(model), before)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything(method: str, lab: Lab) -> None:
    first, again = (lab.logits(lab.trained(method, seed=3, fit_seed=3)) for _ in range(2))
    assert torch.equal(first, again)
    if lab.build(method).trainable_parameters():
        assert not torch.equal(first, lab.logits(lab.trained(method, seed=3, fit_seed=4)))


@pytest.mark.parametrize("method", ["spa", "sem", "ssprompt"])
def test_another_seed_starts_elsewhere(method: str, lab: Lab) -> None:
    assert not torch.equal(lab.logits(lab.build(method)), lab.logits(lab.build(method, seed=1)))


def test_zero_shot_has_nothing_to_train(lab: Lab) -> None:
    model = lab.build("zero_shot")
    assert model.parameter_groups() == []
    before = lab.logits(model)
    result = fit(model, lab.data, SHORT)
    assert (result.loss, result.epochs, result.steps) == (0.0, 0, 0)
    assert torch.equal(lab.logits(model), before)


@pytest.mark.parametrize("method", METHODS)
def test_cells_of_the_logits_are_those_of_the_whole(method: str, lab: Lab) -> None:
    model = lab.trained(method)
    grid = lab.segmenter.grid_size
    cells_P = torch.tensor([0, grid - 1, grid + 2, grid * grid - 1])
    with torch.no_grad():
        some = model.class_logits(lab.data.embeddings, cells_P)
    whole = lab.logits(model).unflatten(2, (grid, 4)).unflatten(4, (grid, 4)).transpose(3, 4)
    torch.testing.assert_close(some, whole.flatten(2, 3)[:, :, cells_P], rtol=1e-4, atol=1e-4)


def test_an_unknown_method_is_told_the_nearest(lab: Lab) -> None:
    with pytest.raises(UserError, match="'ssprmpt' is not a method.*did you mean 'ssprompt'"):
        lab.build("ssprmpt")


def test_a_class_without_a_support_pixel_is_never_the_nearest_prototype(lab: Lab) -> None:
    model = lab.build("prototype")
    labels = [np.where(label == 1, 255, label).astype(np.uint8) for label in lab.data.labels]
    fit(model, replace(lab.data, labels=labels), SHORT)
    assert not model.prototypes[1].any()
    assert not (lab.logits(model).argmax(1) == 1).any()
