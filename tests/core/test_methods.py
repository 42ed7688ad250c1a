"""Every row of the comparison: frozen means frozen, and what is trained is what is documented."""

from __future__ import annotations

import pytest
import torch

from ssprompt_core.errors import UserError
from ssprompt_core.evaluate import predict
from ssprompt_core.methods import METHODS, FewShotModel, MethodSettings, build_model
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.train.fit import FitSettings, fit
from tests.core.tiny_sam import DIM, coloured_data, small_segmenter, tiny_segmenter

C, N, D_TEXT = 3, 4, 12
SHORT = FitSettings(epochs=2, steps_per_epoch=2, batch_size=2, cells=8)
TRAINED = sorted(name for name, spec in METHODS.items() if spec.trains)

# the documented parameters, with a map D_text -> D because the tiny SAM reads no text
COUNTS = {
    "zero_shot": 0,
    "linear_probe": C * DIM + C,
    "xy_points": 2 * N,
    "spa": N * DIM + N,
    "sem": C * DIM + C + D_TEXT * DIM,
    "ssprompt": N * DIM + N + C * DIM + C + D_TEXT * DIM,
}


def _text() -> torch.Tensor:
    return torch.randn(C, D_TEXT, generator=torch.Generator().manual_seed(5))


def _model(method: str, segmenter: Segmenter, seed: int = 0, **settings: object) -> FewShotModel:
    chosen = MethodSettings(num_prompts=N, **settings)  # type: ignore[arg-type]
    return build_model(method, chosen, segmenter, _text(), num_classes=C, seed=seed)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_documented_parameters_are_trained(method: str) -> None:
    model = _model(method, tiny_segmenter())
    print(f"{method} trains {model.trainable_parameters():,} numbers")
    assert model.trainable_parameters() == COUNTS[method]
    grouped = [id(p) for group in model.parameter_groups() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert METHODS[method].trains == bool(grouped)


def test_a_model_with_native_text_trains_no_map() -> None:
    segmenter = small_segmenter()
    assert segmenter.text_dim is not None
    text = torch.randn(C, segmenter.text_dim)
    model = build_model(
        "ssprompt", MethodSettings(num_prompts=N), segmenter, text, num_classes=C, seed=0
    )
    dim = segmenter.embed_dim
    assert model.trainable_parameters() == N * dim + N + C * dim + C


@pytest.mark.parametrize("method", ["spa", "sem", "ssprompt"])
def test_a_weight_per_dimension_trains_as_many_more(method: str) -> None:
    prompts = {"spa": N, "sem": C, "ssprompt": N + C}[method]
    by_prompt = _model(method, tiny_segmenter()).trainable_parameters()
    by_dimension = _model(method, tiny_segmenter(), weight_granularity="dimension")
    assert by_dimension.trainable_parameters() - by_prompt == prompts * (DIM - 1)


@pytest.mark.parametrize("method", TRAINED)
def test_nothing_pretrained_changes_by_a_bit_and_everything_trained_moves(method: str) -> None:
    segmenter = tiny_segmenter()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    model = _model(method, segmenter)
    text = _text()
    started = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, coloured_data(segmenter, num_classes=C), SHORT)
    for name, value in segmenter.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in segmenter.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, started[name]), name
    assert torch.equal(text, _text())


@pytest.mark.parametrize("method", ["xy_points", "spa", "sem", "ssprompt"])
def test_each_gradient_reaches_exactly_its_own_parameters(method: str) -> None:
    segmenter = tiny_segmenter()
    model, data = _model(method, segmenter), coloured_data(segmenter, count=1, num_classes=C)
    model.class_logits(data.embeddings).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in segmenter.parameters())
    assert data.embeddings.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_what_was_learned_is_exported_whole(method: str) -> None:
    segmenter = tiny_segmenter()
    data = coloured_data(segmenter, num_classes=C)
    model = _model(method, segmenter)
    if METHODS[method].trains:
        fit(model, data, SHORT)
    learned = model.export()
    assert all(t.device.type == "cpu" and not t.requires_grad for t in learned.values())
    # another seed and no training: only the loaded state can make the predictions equal
    again = _model(method, tiny_segmenter(), seed=9)
    state = {n: t for n, t in learned.items() if not n.startswith("resolved.")}
    again.load_state_dict(state)
    for first, second in zip(
        predict(model, data.embeddings, data.sizes, batch_size=2, device="cpu"),
        predict(again, data.embeddings, data.sizes, batch_size=2, device="cpu"),
        strict=True,
    ):
        assert (first == second).all()


def test_exported_prompts_are_what_the_decoder_gets() -> None:
    segmenter = tiny_segmenter()
    model = _model("ssprompt", segmenter)
    learned = model.export()
    assert learned["resolved.spatial"].shape == (N, DIM)
    assert learned["resolved.semantic"].shape == (C, DIM)
    tokens = torch.cat(
        [learned["resolved.spatial"].expand(C, -1, -1), learned["resolved.semantic"][:, None]], 1
    )
    embedding = coloured_data(segmenter, count=1).embeddings
    expected = segmenter.decode(embedding, tokens)
    torch.testing.assert_close(model.class_logits(embedding), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_prompts", 0),
        ("lr_embedding", 0.0),
        ("lr_points", float("nan")),
        ("weight_decay", -1.0),
        ("weight_granularity", "pixel"),
        ("embedding_init", "zeros"),
    ],
)
def test_a_wrong_setting_names_its_field(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        MethodSettings(**{field: value})  # type: ignore[arg-type]


def test_a_misspelt_method_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="ssprompt"):
        _model("sspromt", tiny_segmenter())


def test_text_for_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 text embeddings for 4 classes"):
        build_model("sem", MethodSettings(), tiny_segmenter(), _text(), num_classes=4, seed=0)
