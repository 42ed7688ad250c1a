"""The baselines of the step's table do the same training, and its kinds are told apart."""

from __future__ import annotations

import torch

from benchmarks.parts.step import (
    Problem,
    _kind,
    as_written,
    prepared,
    products_alone,
    stock_batched,
)
from ssprompt_core.train.settings import FitSettings
from tests.core.tiny_sam import class_texts, coloured_data, tiny_segmenter


def tiny() -> Problem:
    segmenter = tiny_segmenter()
    data = coloured_data(segmenter)
    assert isinstance(data.embeddings, torch.Tensor)
    texts = class_texts(torch.randn(3, 12, generator=torch.Generator().manual_seed(5)))
    settings = FitSettings(epochs=2, steps_per_epoch=9, batch_size=2, cells=12)
    return Problem("tiny", segmenter, texts, data.embeddings, data.labels, settings)


def test_the_loops_that_a_user_writes_learn_alike() -> None:
    written, batched = as_written(tiny()), stock_batched(tiny())
    for _ in range(3):
        loss = written()
        torch.testing.assert_close(batched(), loss, rtol=1e-4, atol=0)
    assert isinstance(loss, float)
    assert loss > 0


def test_the_products_of_a_step_are_found_and_run_again() -> None:
    assert products_alone(prepared(tiny())) > 0


def test_kinds_of_operations() -> None:
    kinds = {
        "aten::bmm": "products",
        "mkldnn::_linear_pointwise": "products",
        "aten::_softmax_backward_data": "softmax",
        "aten::exp2_": "softmax",
        "aten::native_layer_norm": "norms and GELU",
        "aten::copy_": "rest",
        "AddmmBackward0": "rest",
    }
    assert {name: _kind(name) for name in kinds} == kinds
