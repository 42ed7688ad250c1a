"""Scoring happens at the labels' own size and does not depend on how images are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssprompt_core.evaluate import evaluate, predict
from ssprompt_core.methods import MethodSettings, build_model
from ssprompt_core.metrics.iou import mean_iou
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.train.data import LabelledEmbeddings, label_cells
from tests.core.tiny_sam import class_texts, random_images, tiny_segmenter

SIZES = [(60, 90), (96, 96), (33, 20), (100, 250)]


def _mixed(segmenter: Segmenter) -> LabelledEmbeddings:
    images = [random_images(1, h, w)[0] for h, w in SIZES]
    rng = np.random.default_rng([0])
    labels = [rng.integers(0, 3, size, dtype=np.uint8) for size in SIZES]
    labels[1][:50] = 255
    x = torch.stack([segmenter.preprocess(image) for image in images])
    return LabelledEmbeddings(segmenter.encode_images(x), labels, SIZES)


def _model(segmenter: Segmenter) -> object:
    text = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    return build_model(
        "ssprompt", MethodSettings(num_prompts=4), segmenter, class_texts(text), seed=0
    )


def test_class_maps_have_the_images_sizes() -> None:
    segmenter = tiny_segmenter()
    data = _mixed(segmenter)
    maps = predict(_model(segmenter), data.embeddings, SIZES, batch_size=3, device="cpu")
    assert [m.shape for m in maps] == SIZES
    assert all(m.dtype == np.uint8 and m.max() < 3 for m in maps)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batches_do_not_change_the_score(batch_size: int) -> None:
    segmenter = tiny_segmenter()
    data, model = _mixed(segmenter), _model(segmenter)
    scores = evaluate(model, data, 3, batch_size=batch_size, device="cpu")
    maps = predict(model, data.embeddings, SIZES, batch_size=2, device="cpu")
    expected = np.zeros((3, 3), np.int64)
    for prediction, label in zip(maps, data.labels, strict=True):
        counted = label != 255
        np.add.at(expected, (label[counted], prediction[counted]), 1)
    # a pixel whose best two logits are equal to rounding may fall either way
    assert np.abs(scores.confusion - expected).sum() <= 4
    assert scores.miou == pytest.approx(mean_iou(torch.from_numpy(expected)), abs=1e-3)


def test_a_label_is_cut_into_the_cells_of_its_image_without_the_padding() -> None:
    segmenter = tiny_segmenter()
    grid = segmenter.grid_size
    label = np.zeros((48, 96), np.uint8)
    label[:, 48:] = 1
    cells = label_cells([label], segmenter, 2).view(grid, grid, 4, 4)
    assert (cells[: grid // 2, : grid // 2] == 0).all()
    assert (cells[: grid // 2, grid // 2 :] == 1).all()
    assert (cells[grid // 2 :] == 255).all()
