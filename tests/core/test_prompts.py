"""Prompts: the fusion's equation, where it starts, and what its gradients reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssprompt_core.prompts.fusion import COPY_NOISE, Fusion
from ssprompt_core.prompts.semantic import SemanticPrompts, TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts, PointPrompts, SpatialPrompts, point_grid
from ssprompt_core.prompts.ssprompt import SSPrompt
from tests.core.tiny_sam import DIM, small_segmenter, tiny_segmenter


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fusion(count: int, dim: int, **options: Any) -> tuple[Fusion, torch.Tensor]:
    default = torch.randn(count, dim, generator=_generator(count))
    return Fusion(default, generator=_generator(), **options), default


@given(count=st.integers(1, 6), dim=st.integers(1, 8), by_dimension=st.booleans())
def test_a_fused_prompt_lies_where_the_equation_says(
    count: int, dim: int, by_dimension: bool
) -> None:
    fusion, e = _fusion(count, dim, granularity="dimension" if by_dimension else "prompt")
    torch.nn.init.normal_(fusion.logit, std=3.0, generator=_generator(7))
    w, z = 1 / (1 + torch.exp(-fusion.logit)), fusion.embedding
    torch.testing.assert_close(fusion(e), w * z + (1 - w) * e)
    assert fusion.weight.shape == (count, dim if by_dimension else 1)


def test_training_starts_near_the_defaults_and_may_start_at_random() -> None:
    near, e = _fusion(50, 40)
    assert torch.equal(near.weight, torch.full((50, 1), 0.5))
    scale = e.square().mean().sqrt()
    moved = (near(e).detach() - e).square().mean().sqrt() / scale
    assert moved == pytest.approx(COPY_NOISE / 2, rel=0.1)
    random, e = _fusion(50, 40, init="normal")
    z = random.embedding.detach()
    assert torch.corrcoef(torch.stack([z.flatten(), e.flatten()]))[0, 1].abs() < 0.1
    assert z.std() == pytest.approx(float(scale), rel=0.1)


def test_equal_seeds_start_equal_and_other_seeds_do_not() -> None:
    e = torch.randn(3, 4)
    first, again, other = (Fusion(e, generator=_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.embedding, again.embedding)
    assert not torch.equal(first.embedding, other.embedding)


@pytest.mark.parametrize("granularity", ["prompt", "dimension"])
def test_gradients_reach_embeddings_and_weights(granularity: Any) -> None:
    fusion, e = _fusion(3, 4, granularity=granularity)
    fusion(e).square().sum().backward()
    for parameter in (fusion.embedding, fusion.logit):
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


@given(st.integers(1, 60))
def test_the_grid_covers_the_square_evenly(count: int) -> None:
    points = point_grid(count)
    assert points.shape == (count, 2)
    assert ((points > 0) & (points < 1)).all()
    # the same cloud upside down: no side is favoured but by the order of uneven rows
    assert points[:, 0].mean() == pytest.approx(0.5)
    assert torch.unique(points, dim=0).shape == (count, 2)
    rows = points[:, 1].unique(return_counts=True)[1]
    assert rows.max() - rows.min() <= 1


def test_a_square_grid_is_the_mask_generators() -> None:
    from segment_anything.utils.amg import build_point_grid

    torch.testing.assert_close(
        point_grid(16), torch.from_numpy(build_point_grid(4)).float(), atol=1e-6, rtol=0
    )


def test_a_grid_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        point_grid(0)


def test_points_start_on_the_grid_and_learn_through_the_spatial_encoder() -> None:
    segmenter = tiny_segmenter()
    prompts = PointPrompts(segmenter, 4)
    torch.testing.assert_close(prompts.points, point_grid(4))
    torch.testing.assert_close(prompts(), GridPrompts(segmenter, 4)(), atol=1e-4, rtol=1e-4)
    prompts().square().sum().backward()
    assert prompts.logit.grad is not None
    assert (prompts.logit.grad != 0).any()
    assert [name for name, _ in prompts.named_parameters()] == ["logit"]


def test_a_model_without_text_reads_it_through_a_map_that_keeps_angles() -> None:
    segmenter = tiny_segmenter()
    text = torch.randn(5, 12, generator=_generator())
    prompts = TextPrompts(segmenter, text)
    assert prompts.map is not None
    assert prompts.map.shape == (12, DIM)
    assert not list(prompts.parameters())

    def cosines(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)

    torch.testing.assert_close(cosines(prompts()), cosines(text), atol=1e-4, rtol=1e-4)
    points = segmenter.encode_points(point_grid(16)).norm(dim=1).mean()
    assert prompts().norm(dim=1).mean() == pytest.approx(float(points), rel=1e-4)


def test_a_model_with_text_takes_its_own_embeddings_as_they_are() -> None:
    segmenter = small_segmenter()
    assert segmenter.text_dim is not None
    text = torch.randn(3, segmenter.text_dim)
    assert torch.equal(TextPrompts(segmenter, text)(), text)
    assert SemanticPrompts(segmenter, text, generator=_generator()).map is None
    # another encoder's text is foreign to it
    assert TextPrompts(segmenter, torch.randn(3, 7)).map is not None


def test_renaming_the_order_of_classes_reorders_their_tokens() -> None:
    segmenter, text = tiny_segmenter(), torch.randn(4, 9)
    order = torch.tensor([2, 0, 3, 1])
    plain, permuted = TextPrompts(segmenter, text), TextPrompts(segmenter, text[order])
    torch.testing.assert_close(plain()[order], permuted())


def test_every_class_gets_the_spatial_prompts_and_its_own_token() -> None:
    segmenter, text = tiny_segmenter(), torch.randn(3, 9)
    spatial = SpatialPrompts(segmenter, 5, generator=_generator())
    semantic = SemanticPrompts(segmenter, text, generator=_generator(1))
    tokens = SSPrompt(spatial, semantic)()
    assert tokens.shape == (3, 6, DIM)
    for c in range(3):
        torch.testing.assert_close(tokens[c, :5], spatial())
        torch.testing.assert_close(tokens[c, 5], semantic()[c])
