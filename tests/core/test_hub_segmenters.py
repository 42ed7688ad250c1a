"""Segmenters over `transformers` fulfil the contract and agree with the models' own forward."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from segmenter_contract import SegmenterContract
from tiny_hub import KINDS, SIDE, write_tiny
from tiny_sam import coloured_data, random_images, small_class_texts

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, MethodSettings, build_model
from ssprompt_core.models.hub_sam import HubSam, HubSam2, HubSamHq
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.train.data import label_cells
from ssprompt_core.train.fit import FitSettings, fit


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {kind: write_tiny(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def segmenters(folders):
    return {kind: build(folder) for kind, folder in folders.items()}


def build(folder):
    return build_segmenter("transformers", folder)


class Padded(SegmenterContract):
    kind: str

    @pytest.fixture
    def segmenter(self, segmenters):
        return segmenters[self.kind]


class Squashed(Padded):
    keeps_aspect = False


class TestSam(Padded):
    kind = "sam"


class TestSamHq(Padded):
    kind = "sam_hq"


class TestSam2(Squashed):
    kind = "sam2"


class TestSam2Video(Squashed):
    kind = "sam2_video"


class TestSam3Tracker(Squashed):
    kind = "sam3_tracker"


class TestSam3Video(Squashed):
    kind = "sam3_video"


CLASSES = {
    "sam": HubSam,
    "sam_hq": HubSamHq,
    "sam2": HubSam2,
    "sam2_video": HubSam2,
    "sam3_tracker": HubSam2,
    "sam3_video": HubSam2,
}


class ImageSideInPlace(torch.nn.Module):
    """Gives SAM-HQ's stock forward the image side that its transformer returns.

    The stock forward upscales the tensor that it passed in, rows and columns swapped; this writes
    the result there, swapped once more, so that all the rest of the stock code is compared.
    """

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, image_embeddings, **others):
        tokens, image = self.transformer(image_embeddings=image_embeddings.clone(), **others)
        image_Pxhw = image[:, 0].transpose(1, 2).view_as(image_embeddings)
        image_embeddings.copy_(image_Pxhw.transpose(2, 3))
        return tokens, image


def own_masks(segmenter, kind, x_B3SS, pixels_BCN2):
    """Masks of the model's own forward, mask token 0."""
    decoder = segmenter.model.mask_decoder
    if kind.startswith(("sam2", "sam3")):
        decoder.dynamic_multimask_via_stability = False
    stock_transformer = decoder.transformer
    if kind == "sam_hq":
        decoder.transformer = ImageSideInPlace(stock_transformer)
    try:
        with torch.no_grad():
            return segmenter.model(
                pixel_values=x_B3SS,
                input_points=pixels_BCN2,
                input_labels=torch.ones(pixels_BCN2.shape[:3], dtype=torch.int64),
                multimask_output=False,
            ).pred_masks[:, :, 0]
    finally:
        decoder.transformer = stock_transformer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(96, 96), (60, 91), (131, 50)])
def test_masks_equal_those_of_the_models_own_forward(segmenters, kind, height, width):
    segmenter = segmenters[kind]
    assert type(segmenter) is CLASSES[kind]
    x_B3SS = torch.stack([segmenter.preprocess(i) for i in random_images(2, height, width)])
    pixels_CN2 = torch.randint(0, SIDE, (3, 4, 2), generator=torch.Generator().manual_seed(5))
    expected = own_masks(segmenter, kind, x_B3SS, pixels_CN2.float().expand(2, -1, -1, -1))

    padding_1D = segmenter.model.prompt_encoder.not_a_point_embed.weight
    tokens_CTD = torch.stack(
        [
            torch.cat([segmenter.encode_points((pixels_N2 + 0.5) / SIDE), padding_1D])
            for pixels_N2 in pixels_CN2
        ]
    )
    found = segmenter.decode(segmenter.encode_images(x_B3SS), tokens_CTD)
    assert expected.shape == found.shape == (2, 3, 24, 24)
    scale = float(expected.std())
    assert scale > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_through_the_models_own_decoder(segmenters, kind):
    segmenter = segmenters[kind]
    model, decoder = segmenter.model, segmenter.model.mask_decoder
    x_B3SS = torch.stack([segmenter.preprocess(image) for image in random_images(2)])
    tokens_CTD = torch.randn(
        3, 4, segmenter.embed_dim, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    features = model.get_image_embeddings(x_B3SS)
    options = {}
    if kind == "sam_hq":
        image_BDhw, options["intermediate_embeddings"] = features
        options["hq_token_only"] = False
        decoder.transformer = ImageSideInPlace(decoder.transformer)
    elif kind == "sam":
        image_BDhw = features
    else:
        *options["high_resolution_features"], image_BDhw = features
        decoder.dynamic_multimask_via_stability = False
    expected = decoder(
        image_embeddings=image_BDhw,
        image_positional_embeddings=model.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1),
        sparse_prompt_embeddings=tokens_CTD.expand(2, -1, -1, -1),
        dense_prompt_embeddings=model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        multimask_output=False,
        **options,
    )[0][:, :, 0]
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((expected * probe).sum(), tokens_CTD)
    if kind == "sam_hq":
        decoder.transformer = decoder.transformer.transformer
    logits = segmenter.decode(segmenter.encode_images(x_B3SS), tokens_CTD)
    (found,) = torch.autograd.grad((logits * probe).sum(), tokens_CTD)
    assert float((found - gradient).norm() / gradient.norm()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_is_mask_token_0_of_a_longer_sequence(folders, kind):
    """With one class and a zero token, and no spare mask tokens, both forms are the same."""
    segmenter = build(folders[kind])
    spatial_ND = torch.randn(4, segmenter.embed_dim, generator=torch.Generator().manual_seed(1))
    embeddings = segmenter.encode_images(segmenter.preprocess(random_images(1)[0])[None])
    together = segmenter.decode_together(
        embeddings, spatial_ND, torch.zeros(1, segmenter.embed_dim)
    )
    mask_tokens = segmenter.model.mask_decoder.mask_tokens
    mask_tokens.weight = torch.nn.Parameter(mask_tokens.weight[:1], requires_grad=False)
    alone = segmenter.decode(embeddings, spatial_ND[None])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["sam2", "sam3_tracker"])
def test_labels_are_resampled_by_one_scale_for_each_axis(segmenters, kind):
    segmenter = segmenters[kind]
    label = np.zeros((30, 120), np.uint8)
    label[15:, 60:] = 1
    cells = label_cells([label], segmenter, 2)
    frame = cells.view(6, 6, 4, 4).transpose(1, 2).reshape(24, 24)
    expected = torch.zeros(24, 24, dtype=torch.uint8)
    expected[12:, 12:] = 1
    assert torch.equal(frame, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_upscaling_equals_the_processors_postprocessing(segmenters, kind):
    segmenter = segmenters[kind]
    logits = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    height, width = 60, 91
    prepared = segmenter._processor(images=random_images(1, height, width)[0], return_tensors="pt")
    sizes = [prepared["reshaped_input_sizes"]] if kind in {"sam", "sam_hq"} else []
    (expected,) = segmenter._processor.post_process_masks(
        [logits], prepared["original_sizes"], *sizes, binarize=False
    )
    found = segmenter.upscale_logits(logits, height, width)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_preprocessing_and_weights_are_part_of_the_fingerprint(folders, tmp_path):
    first = build(folders["sam2"]).fingerprint
    assert build(folders["sam2"]).fingerprint == first
    other_weights = write_tiny("sam2", tmp_path / "a", seed=1)
    assert build(other_weights).fingerprint != first
    other_mean = write_tiny("sam2", tmp_path / "b")
    path = other_mean / "preprocessor_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"image_mean": [0.5, 0.5, 0.5]}))
    assert build(other_mean).fingerprint != first


def test_what_is_no_such_folder_is_named(folders, tmp_path):
    with pytest.raises(UserError, match=r"model\.checkpoint is not set"):
        build_segmenter("transformers")
    with pytest.raises(UserError, match="not a folder with a config.json"):
        build(tmp_path / "none")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        build(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(UserError, match="has model_type 'clip', but .* sam, sam_hq, sam2"):
        build(tmp_path)
    (tmp_path / "config.json").write_text((folders["sam2"] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled weights are not read"):
        build(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read as a Sam2Model"):
        build(tmp_path)


def test_incomplete_broken_and_mismatched_folders_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_tiny("sam", tmp_path)
    weights = folder / "model.safetensors"
    whole = load_file(weights)
    key = "mask_decoder.iou_token.weight"
    save_file({k: v for k, v in whole.items() if k != key}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=f"has no '{key}', so it is not a whole SamModel"):
        build(folder)
    save_file(whole | {key: torch.full_like(whole[key], np.nan)}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="not finite numbers"):
        build(folder)
    save_file(whole, weights, {"format": "pt"})
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"pad_size": {"height": 128, "width": 128}}))
    with pytest.raises(UserError, match=r"shape \(3, 128, 128\), but its model takes"):
        build(folder)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read as a SamModel"):
        build(folder)


@pytest.mark.parametrize("method", ["zero_shot", "ssprompt", "xy_points", "linear_probe"])
@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2"])
def test_methods_train_on_them(segmenters, kind, method):
    segmenter = segmenters[kind]
    frozen = {key: value.clone() for key, value in segmenter.state_dict().items()}
    texts = small_class_texts(10, ("sky", "road", "car"))
    model = build_model(method, MethodSettings(num_prompts=3), segmenter, texts, seed=0)
    data = coloured_data(segmenter)
    before = model.class_logits(data.embeddings).detach()
    if METHODS[method].uses_support:
        fit(model, data, FitSettings(epochs=1, steps_per_epoch=3, batch_size=2, cells=9))
        assert not torch.equal(model.class_logits(data.embeddings).detach(), before)
    assert before.shape == (4, 3, 24, 24)
    assert all(torch.equal(frozen[key], value) for key, value in segmenter.state_dict().items())
