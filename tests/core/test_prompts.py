"""Prompts start as documented, learn z and w only, and fuse as the paper's equation says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import build_point_grid
from tiny_sam import DIM, GRID, small_class_texts, tiny_sam, tiny_segmenter
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.prompts.fusion import FusionOptions, Granularity
from ssprompt_core.prompts.semantic import ContextPrompts, SemanticPrompts, TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts, PointPrompts, SpatialPrompts, point_grid
from ssprompt_core.prompts.ssprompt import SSPrompt
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.small import NgramText, SmallTextEncoder

SEGMENTER = tiny_segmenter()
WITH_TEXT = SamSegmenter(tiny_sam(), name="tiny", native_text=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def options(
    generator: torch.Generator | None = None, granularity: Granularity = "prompt"
) -> FusionOptions:
    return FusionOptions(granularity=granularity, generator=generator or seeded())


def texts(classes: int = 3, width: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(classes, width, generator=seeded(seed))


@settings(deadline=None)
@given(count=st.integers(1, 300))
def test_the_grid_has_the_asked_for_points_evenly_inside_the_square(count: int) -> None:
    grid_N2 = point_grid(count)
    assert grid_N2.shape == (count, 2)
    assert len(grid_N2.unique(dim=0)) == count
    assert grid_N2.min() > 0
    assert grid_N2.max() < 1
    rows, in_row = grid_N2[:, 1].unique(return_counts=True)
    torch.testing.assert_close(rows, (torch.arange(len(rows)) + 0.5) / len(rows))
    assert in_row.max() - in_row.min() <= 1
    for row in torch.split(grid_N2[:, 0], in_row.tolist()):
        torch.testing.assert_close(row, (torch.arange(len(row)) + 0.5) / len(row))


@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_a_square_grid_is_that_of_automatic_mask_generation(side: int) -> None:
    expected = torch.from_numpy(build_point_grid(side)).float()
    torch.testing.assert_close(point_grid(side**2), expected)


@pytest.mark.parametrize("count", [0, -3])
def test_a_grid_without_points_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"at least one point, not {count}"):
        point_grid(count)


@pytest.mark.parametrize("count", [1, 5, 16])
def test_default_and_point_prompts_start_on_the_encoded_grid(count: int) -> None:
    expected = SEGMENTER.encode_points(point_grid(count))
    assert torch.equal(GridPrompts(SEGMENTER, count)(), expected)
    points = PointPrompts(SEGMENTER, count)
    torch.testing.assert_close(points.points, point_grid(count))
    torch.testing.assert_close(points(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("granularity", ["prompt", "dimension"])
def test_fused_prompts_start_beside_their_defaults(granularity: str) -> None:
    spatial = SpatialPrompts(SEGMENTER, 16, options(seeded(), granularity))
    semantic = SemanticPrompts(SEGMENTER, texts(), options(seeded(), granularity))
    for prompts, default in ((spatial, spatial.default), (semantic, semantic.default())):
        count = len(default)
        assert prompts().shape == default.shape == (count, DIM)
        width = 1 if granularity == "prompt" else DIM
        assert prompts.fusion.weight.shape == (count, width)
        assert (prompts.fusion.weight == 0.5).all()
        shift = (prompts() - default).square().mean().sqrt() / default.square().mean().sqrt()
        assert 0.03 < shift < 0.07


def test_prompts_are_one_row_per_class_the_spatial_ones_first() -> None:
    prompts = SSPrompt(
        SpatialPrompts(SEGMENTER, 5, options(seeded())),
        SemanticPrompts(SEGMENTER, texts(), options(seeded())),
    )
    tokens_CTD = prompts()
    assert tokens_CTD.shape == (3, 6, DIM)
    for c in range(3):
        assert torch.equal(tokens_CTD[c, :5], prompts.spatial())
        assert torch.equal(tokens_CTD[c, 5], prompts.semantic()[c])


@pytest.mark.parametrize("segmenter", [SEGMENTER, WITH_TEXT], ids=["mapped", "native"])
@pytest.mark.parametrize("granularity", ["prompt", "dimension"])
def test_gradients_reach_exactly_z_w_and_the_map(segmenter: SamSegmenter, granularity: str) -> None:
    text_CE = texts(width=DIM).requires_grad_()
    prompts = SSPrompt(
        SpatialPrompts(segmenter, 4, options(seeded(1), granularity)),
        SemanticPrompts(segmenter, text_CE, options(seeded(2), granularity)),
    )
    embeddings = torch.randn(2, DIM, GRID, GRID, generator=seeded(3))
    segmenter.decode(embeddings, prompts()).square().mean().backward()
    learned = {f"{s}.fusion.{p}" for s in ("spatial", "semantic") for p in ("embedding", "logit")}
    if not segmenter.native_text:
        learned.add("semantic.map")
    gradients = {name: p.grad for name, p in prompts.named_parameters()}
    assert gradients.keys() == learned
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert (gradient.abs().sum(-1) > 0).all(), name
    assert text_CE.grad is None
    assert all(p.grad is None for p in segmenter.parameters())


def test_gradients_reach_every_learned_coordinate() -> None:
    points = PointPrompts(SEGMENTER, 7)
    assert [name for name, _ in points.named_parameters()] == ["logit"]
    points().pow(3).sum().backward()
    assert (points.logit.grad != 0).all()


def test_native_text_is_taken_as_it_is_and_other_text_through_a_map() -> None:
    own, foreign = texts(width=DIM), texts(width=DIM + 1)
    assert torch.equal(TextPrompts(WITH_TEXT, own)(), own)
    for segmenter, text_CE in ((WITH_TEXT, foreign), (SEGMENTER, own)):
        prompts = TextPrompts(segmenter, text_CE)
        assert prompts.map.shape == (text_CE.shape[1], DIM)
        assert not list(prompts.parameters())
        points = segmenter.encode_points(point_grid(16)).norm(dim=1).mean()
        torch.testing.assert_close(prompts().norm(dim=1).mean(), points)


def test_the_map_keeps_the_angles_between_classes() -> None:
    text_CE = texts(width=DIM - 4)
    angles = torch.nn.functional.normalize(TextPrompts(SEGMENTER, text_CE)(), dim=1)
    expected = torch.nn.functional.normalize(text_CE, dim=1)
    torch.testing.assert_close(angles @ angles.T, expected @ expected.T)


@settings(deadline=None, max_examples=30)
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_permuted_classes_give_permuted_prompts(order: list[int], seed: int) -> None:
    text_CE = texts(5, seed=seed)
    straight = SemanticPrompts(SEGMENTER, text_CE, options(seeded(seed)))
    permuted = SemanticPrompts(SEGMENTER, text_CE[order], options(seeded(seed)))
    torch.testing.assert_close(permuted.default(), straight.default()[order])
    with torch.no_grad():
        straight.fusion.logit.copy_(torch.randn(5, 1, generator=seeded(seed)))
        permuted.fusion.logit.copy_(straight.fusion.logit[order])
        permuted.fusion.embedding.copy_(straight.fusion.embedding[order])
    torch.testing.assert_close(permuted(), straight()[order])


def test_context_is_learned_through_the_text_encoder() -> None:
    class_texts = small_class_texts(10)
    prompts = ContextPrompts(SEGMENTER, class_texts, 4, seeded())
    assert [name for name, _ in prompts.named_parameters()] == ["map", "context"]
    prompts().square().sum().backward()
    assert (prompts.context.grad.abs().sum(-1) > 0).all()
    encoder = class_texts.source()
    expected = encoder.encode_with_context(class_texts.names, prompts.context) @ prompts.map
    torch.testing.assert_close(prompts(), expected)


def test_an_encoder_without_token_embeddings_cannot_learn_context() -> None:
    class Plain(SmallTextEncoder):
        context_dim = None

    encoder = Plain(NgramText(10))
    with pytest.raises(UserError, match=r"token_context .* small has no token embeddings"):
        ContextPrompts(SEGMENTER, ClassTexts.of(lambda: encoder, ("a", "b")), 4, seeded())
