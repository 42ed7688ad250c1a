"""Attention of spatial prompts and the class names that semantic prompts resemble."""

from __future__ import annotations

import pytest
import torch
from tiny_sam import DIM, GRID, class_texts, small_segmenter, tiny_segmenter
from torch import Tensor

from ssprompt_core.analysis.attention import (
    AttentionUnavailableError,
    attention_centres,
    attention_distance,
    spatial_attention,
)
from ssprompt_core.analysis.names import name_similarity
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter


def random_inputs(segmenter: Segmenter, classes: int = 3, prompts: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    D, side = segmenter.embed_dim, segmenter.grid_size
    shapes = [(D, side, side), (prompts, D), (classes, D)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def stock_maps(
    segmenter: SamSegmenter, embedding: Tensor, sequence_TD: Tensor, monkeypatch
) -> Tensor:
    """Softmax weights that the stock decoder itself computes in its last layer, ``[H, T, S]``."""
    weights = []
    softmax = torch.softmax

    def spy(scores: Tensor, dim: int) -> Tensor:
        weights.append(softmax(scores, dim=dim))
        return weights[-1]

    encoder = segmenter.prompt_encoder
    image = embedding[None] + encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "softmax", spy)
        segmenter.mask_decoder.transformer(image, encoder.get_dense_pe(), sequence_TD[None])
    # two layers of three attentions each, then the final one: self, to the image, to the tokens
    assert len(weights) == 7
    return weights[4][0]


@pytest.mark.parametrize("build", [tiny_segmenter, small_segmenter])
def test_maps_are_the_stock_decoders_own_weights(build, monkeypatch) -> None:
    segmenter = build()
    embedding, spatial_ND, semantic_CD = random_inputs(segmenter)
    decoder = segmenter.mask_decoder
    expected = 0
    for row in semantic_CD:
        tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight, spatial_ND, row[None]]
        weights = stock_maps(segmenter, embedding, torch.cat(tokens), monkeypatch)
        expected = expected + weights[:, 5:9].mean(0) / len(semantic_CD)
    maps = spatial_attention(segmenter, embedding, spatial_ND, semantic_CD)
    side = segmenter.grid_size
    torch.testing.assert_close(maps, expected.view(4, side, side), atol=1e-6, rtol=1e-5)


def test_maps_of_one_pass_are_the_stock_decoders_own_weights(monkeypatch) -> None:
    segmenter = tiny_segmenter()
    embedding, spatial_ND, semantic_CD = random_inputs(segmenter)
    decoder = segmenter.mask_decoder
    classes = decoder.mask_tokens.weight[0] + semantic_CD
    tokens = torch.cat([decoder.iou_token.weight, classes, spatial_ND])
    expected = stock_maps(segmenter, embedding, tokens, monkeypatch)[:, 4:8].mean(0)
    maps = spatial_attention(segmenter, embedding, spatial_ND, semantic_CD, one_pass=True)
    torch.testing.assert_close(maps, expected.view(4, GRID, GRID), atol=1e-6, rtol=1e-5)


def test_maps_sum_to_one_and_leave_the_decoder_as_it_was() -> None:
    segmenter = tiny_segmenter()
    maps = spatial_attention(segmenter, *random_inputs(segmenter))
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(4))
    attention = segmenter.mask_decoder.transformer.layers[-1].cross_attn_token_to_image
    assert not attention._forward_pre_hooks


def test_the_map_of_all_classes_is_the_mean_of_theirs() -> None:
    segmenter = tiny_segmenter()
    embedding, spatial_ND, semantic_CD = random_inputs(segmenter)
    single = [spatial_attention(segmenter, embedding, spatial_ND, c[None]) for c in semantic_CD]
    together = spatial_attention(segmenter, embedding, spatial_ND, semantic_CD)
    torch.testing.assert_close(together, torch.stack(single).mean(0))
    assert not torch.allclose(single[0], single[1])


def test_another_segmenter_says_that_there_is_no_attention(monkeypatch) -> None:
    segmenter = tiny_segmenter()
    inputs = random_inputs(segmenter)
    monkeypatch.setattr("ssprompt_core.analysis.attention.SamSegmenter", type("Other", (), {}))
    with pytest.raises(AttentionUnavailableError, match="only; this one is 'tiny'"):
        spatial_attention(segmenter, *inputs)


def test_centres_and_distances_of_known_maps() -> None:
    maps = torch.zeros(2, 4, 8)
    maps[0, 0, 0] = 1.0
    maps[1, 1, 2] = maps[1, 2, 5] = 0.5
    assert attention_centres(maps).tolist() == [[0.0625, 0.125], [0.5, 0.5]]
    assert attention_distance(maps, maps).tolist() == [0, 0]
    assert attention_distance(maps, maps.flip(0)).tolist() == [1, 1]
    half = maps.clone()
    half[1] = 0
    half[1, 1, 2] = 1.0
    assert attention_distance(maps, half).tolist() == [0, 0.5]


def test_similarity_ignores_length_and_finds_exchanged_names() -> None:
    names = class_texts(torch.eye(3, DIM)).plain_CE
    similarity = name_similarity(5 * names[[1, 0, 2]], 0.1 * names)
    torch.testing.assert_close(similarity, torch.eye(3)[[1, 0, 2]])
