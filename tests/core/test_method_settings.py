"""Hyperparameters: wrong ones are named, and a method uses exactly those that it lists."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from tiny_sam import coloured_data, small_class_texts, tiny_segmenter
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, MethodSettings, build_model
from ssprompt_core.train.fit import FitSettings, fit

FIELDS = [field.name for field in fields(MethodSettings)]
OTHER = {
    "num_prompts": 5,
    "weight_decay": 0.5,
    "weight_granularity": "dimension",
    "embedding_init": "normal",
    "context_length": 2,
    "decoding": "one_pass",
} | {name: 0.05 for name in FIELDS if name.startswith("lr_")}

SEGMENTER = tiny_segmenter()
DATA = coloured_data(SEGMENTER)
TEXTS = small_class_texts(10)


@cache
def outcome(method: str, settings: MethodSettings) -> Tensor:
    """Logits after a short fit."""
    model = build_model(method, settings, SEGMENTER, TEXTS, seed=0)
    if METHODS[method].uses_support:
        fit(model, DATA, FitSettings(epochs=1, steps_per_epoch=3, batch_size=2, cells=9))
    with torch.no_grad():
        return model.class_logits(DATA.embeddings)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_uses_the_hyperparameters_that_it_lists_and_no_others(
    method: str, field: str
) -> None:
    usual = MethodSettings(num_prompts=4)
    changed = replace(usual, **{field: OTHER[field]})
    matters = not torch.equal(outcome(method, usual), outcome(method, changed))
    assert matters == (field in METHODS[method].hyperparameters)


@pytest.mark.parametrize("method", METHODS)
def test_listed_hyperparameters_exist(method: str) -> None:
    assert set(METHODS[method].hyperparameters) <= set(FIELDS)
    assert METHODS[method].name == method


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("num_prompts", 0, "at least 1"),
        ("num_prompts", -4, "at least 1"),
        *((name, 0.0, "positive") for name in FIELDS if name.startswith("lr_")),
        ("lr_embedding", float("nan"), "positive"),
        ("weight_decay", -1e-9, "not be negative"),
        ("weight_decay", float("nan"), "not be negative"),
        ("weight_granularity", "token", "one of prompt, dimension"),
        ("embedding_init", "zeros", "one of copy, normal, xavier"),
        ("context_length", 0, "at least 1"),
        ("decoding", "fast", "one of per_class, one_pass"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    field: str, value: object, right: str
) -> None:
    with pytest.raises(UserError, match=rf"^{field} is '?{value}'?, but must .*{right}"):
        MethodSettings(**{field: value})
