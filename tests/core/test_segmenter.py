"""The segmenters fulfil the contract and agree with segment-anything's own classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segmenter_contract import SegmenterContract
from tiny_sam import random_images, small_segmenter, tiny_sam, tiny_segmenter

from ssprompt_core.models.sam import SamSegmenter

SIZES = [(96, 96), (60, 91), (131, 50), (33, 200)]


class TestTiny(SegmenterContract):
    @pytest.fixture
    def segmenter(self):
        return tiny_segmenter()


class TestSmall(SegmenterContract):
    @pytest.fixture(scope="class")
    def segmenter(self):
        return small_segmenter()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_images_are_encoded_as_by_the_stock_predictor(height, width):
    sam = tiny_sam()
    predictor = SamPredictor(sam)
    image = random_images(1, height, width)[0]
    predictor.set_image(image)
    segmenter = SamSegmenter(sam, name="tiny")
    embeddings = segmenter.encode_images(segmenter.preprocess(image)[None])
    assert torch.equal(embeddings, predictor.features)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_are_upscaled_as_by_the_stock_model(height, width):
    sam = tiny_sam()
    segmenter = SamSegmenter(sam, name="tiny")
    predictor = SamPredictor(sam)
    predictor.set_image(random_images(1, height, width)[0])
    logits = torch.randn(2, 3, 24, 24)
    expected = sam.postprocess_masks(logits, predictor.input_size, (height, width))
    assert torch.equal(segmenter.upscale_logits(logits, height, width), expected)


@pytest.mark.parametrize("sam", [tiny_sam(), tiny_sam(1, dim=32, grid=8)], ids=["6x6", "8x8"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_predicted_as_by_the_stock_predictor(sam, height, width):
    """Image and points in, logits at the size of the image out: both sides end to end."""
    segmenter = SamSegmenter(sam, name="tiny")
    predictor = SamPredictor(sam)
    image = random_images(1, height, width)[0]
    points_C3 = [
        [(0.2, 0.3, 1)],
        [(0.5, 0.5, 1), (0.9, 0.1, 0)],
        [(0.1, 0.9, 1), (0.6, 0.4, 1), (0.7, 0.8, 0)],
    ]
    predictor.set_image(image)
    embeddings = segmenter.encode_images(segmenter.preprocess(image)[None])
    for points in points_C3:
        pixels = np.array([(x * width, y * height) for x, y, _ in points])
        labels = np.array([label for *_, label in points])
        expected, _, low = predictor.predict(
            pixels, labels, multimask_output=False, return_logits=True
        )
        # stock points are indices of pixels in the resized image, and a padding point is appended
        resized = torch.from_numpy(predictor.transform.apply_coords(pixels, (height, width)))
        xy = (resized.float() + 0.5) / segmenter.image_size
        tokens = segmenter.encode_points(xy, torch.from_numpy(labels))
        padding = segmenter.prompt_encoder.not_a_point_embed.weight
        with torch.no_grad():
            logits = segmenter.decode(embeddings, torch.cat([tokens, padding])[None])
        scale = float(low.std())
        assert scale > 1e-4
        torch.testing.assert_close(logits[0], torch.from_numpy(low), rtol=1e-4, atol=1e-4 * scale)
        found = segmenter.upscale_logits(logits, height, width)[0]
        assert found.shape == (1, height, width)
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-4 * scale)


def test_points_are_embedded_as_by_the_stock_prompt_encoder():
    sam = tiny_sam()
    segmenter = SamSegmenter(sam, name="tiny")
    xy = torch.rand(5, 2)
    labels = torch.tensor([1, 0, 1, 1, 0])
    # stock points are pixel indices, whose centres lie half a pixel further
    pixels = xy * segmenter.image_size - 0.5
    stock, _ = sam.prompt_encoder(points=(pixels[None], labels[None]), boxes=None, masks=None)
    torch.testing.assert_close(segmenter.encode_points(xy, labels), stock[0, :5], rtol=0, atol=2e-5)


def test_points_keep_full_precision_under_autocast():
    segmenter = tiny_segmenter()
    xy = torch.rand(5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(segmenter.encode_points(xy), segmenter.encode_points(xy.clone()))
        rounded = segmenter.encode_points(xy)
    assert torch.equal(rounded, segmenter.encode_points(xy))


def test_preprocessing_is_part_of_the_fingerprint():
    sam = tiny_sam()
    other = tiny_sam()
    other.pixel_mean += 1
    assert SamSegmenter(sam, name="a").fingerprint != SamSegmenter(other, name="a").fingerprint
    assert SamSegmenter(sam, name="a").fingerprint == SamSegmenter(sam, name="b").fingerprint
