"""The fusion is the paper's equation, for every weight and at both granularities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssprompt_core.prompts.fusion import COPY_NOISE, Fusion, FusionOptions, Granularity

GRANULARITIES: list[Granularity] = ["prompt", "dimension"]


def default_prompts(count: int, dim: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def fusion(default_ND: Tensor, granularity: Granularity = "prompt", seed: int = 0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Fusion(
        default_ND, FusionOptions(granularity=granularity, generator=generator, **options)
    )


def set_logits(module: Fusion, seed: int, scale: float = 2.0) -> None:
    with torch.no_grad():
        noise = torch.randn(module.logit.shape, generator=torch.Generator().manual_seed(seed))
        module.logit.copy_(scale * noise)


SIZES = {"count": st.integers(1, 9), "dim": st.integers(1, 9), "seed": st.integers(0, 10_000)}


@settings(deadline=None)
@given(**SIZES, granularity=st.sampled_from(GRANULARITIES))
def test_fused_prompts_are_the_weighted_mean_of_learned_and_default_ones(
    count: int, dim: int, seed: int, granularity: Granularity
) -> None:
    e_ND = default_prompts(count, dim, seed)
    module = fusion(e_ND, granularity, seed)
    set_logits(module, seed)
    w, z_ND = module.logit.sigmoid(), module.embedding
    assert torch.equal(module.weight, w)
    assert ((w > 0) & (w < 1)).all()
    torch.testing.assert_close(module(e_ND), w * z_ND + (1 - w) * e_ND)
    # a mean lies between what it is of
    low, high = torch.minimum(z_ND, e_ND), torch.maximum(z_ND, e_ND)
    assert ((module(e_ND) >= low - 1e-5) & (module(e_ND) <= high + 1e-5)).all()


@settings(deadline=None)
@given(**SIZES)
def test_a_weight_per_prompt_is_equal_weights_of_its_dimensions(
    count: int, dim: int, seed: int
) -> None:
    e_ND = default_prompts(count, dim, seed)
    coarse, fine = fusion(e_ND, "prompt", seed), fusion(e_ND, "dimension", seed)
    assert torch.equal(coarse.embedding, fine.embedding)
    set_logits(coarse, seed)
    with torch.no_grad():
        fine.logit.copy_(coarse.logit.expand(-1, dim))
    torch.testing.assert_close(coarse(e_ND), fine(e_ND))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_extreme_weights_give_either_side(granularity: Granularity) -> None:
    e_ND = default_prompts(4, 6)
    module = fusion(e_ND, granularity)
    with torch.no_grad():
        module.logit.fill_(40)
    torch.testing.assert_close(module(e_ND), module.embedding)
    with torch.no_grad():
        module.logit.fill_(-40)
    torch.testing.assert_close(module(e_ND), e_ND)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_derivatives_are_those_of_the_equation(granularity: Granularity) -> None:
    e_ND = default_prompts(3, 5).double()
    module = fusion(e_ND, granularity).double()
    set_logits(module, 1)
    module(e_ND).sum().backward()
    w = module.weight.detach()
    torch.testing.assert_close(module.embedding.grad, w.expand(3, 5))
    expected_ND = w * (1 - w) * (module.embedding.detach() - e_ND)
    if granularity == "prompt":
        expected_ND = expected_ND.sum(1, keepdim=True)
    torch.testing.assert_close(module.logit.grad, expected_ND)


def test_weights_start_at_one_half_and_can_learn_from_a_copy() -> None:
    e_ND = default_prompts(50, 40)
    module = fusion(e_ND)
    assert (module.weight == 0.5).all()
    scale = e_ND.square().mean().sqrt()
    noise = (module.embedding - e_ND).square().mean().sqrt()
    torch.testing.assert_close(noise, COPY_NOISE * scale, rtol=0.05, atol=0)
    module(e_ND).square().sum().backward()
    assert (module.logit.grad != 0).all()


def test_a_normal_start_has_the_scale_of_the_default_and_nothing_else_of_it() -> None:
    e_ND = default_prompts(50, 40, scale=7.0)
    module = fusion(e_ND, init="normal", seed=1)
    torch.testing.assert_close(
        module.embedding.std(), e_ND.square().mean().sqrt(), rtol=0.05, atol=0
    )
    correlation = torch.corrcoef(torch.stack([module.embedding.flatten(), e_ND.flatten()]))[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize("init", ["copy", "normal"])
def test_the_seed_decides_the_start(init: str) -> None:
    e_ND = default_prompts(4, 6)
    first, again, other = (fusion(e_ND, init=init, seed=s).embedding for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_default_prompts_are_left_alone() -> None:
    e_ND = default_prompts(4, 6).requires_grad_()
    kept = e_ND.detach().clone()
    module = fusion(e_ND)
    with torch.no_grad():
        module.embedding.zero_()
    assert torch.equal(e_ND, kept)
    assert not module.embedding.grad_fn


@settings(deadline=None)
@given(**SIZES, granularity=st.sampled_from(GRANULARITIES))
def test_weights_alone_keep_a_share_of_the_default_and_start_from_all_of_it(
    count: int, dim: int, seed: int, granularity: Granularity
) -> None:
    e_ND = default_prompts(count, dim, seed)
    module = fusion(e_ND, granularity, seed, learned="weight")
    assert [name for name, _ in module.named_parameters()] == ["logit"]
    torch.testing.assert_close(module(e_ND), e_ND)
    set_logits(module, seed)
    torch.testing.assert_close(module(e_ND), 2 * (1 - module.weight) * e_ND)


@settings(deadline=None)
@given(**SIZES, granularity=st.sampled_from(GRANULARITIES))
def test_embeddings_alone_are_averaged_with_the_default(
    count: int, dim: int, seed: int, granularity: Granularity
) -> None:
    e_ND = default_prompts(count, dim, seed)
    module = fusion(e_ND, granularity, seed, learned="embedding")
    assert [name for name, _ in module.named_parameters()] == ["embedding"]
    torch.testing.assert_close(module(e_ND), (module.embedding + e_ND) / 2)


def test_xavier_starts_uniformly_within_its_bound() -> None:
    e_ND = default_prompts(40, 60, scale=100.0)
    z_ND = fusion(e_ND, init="xavier").embedding
    bound = (6 / (40 + 60)) ** 0.5
    assert z_ND.abs().max() <= bound
    assert z_ND.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not torch.equal(z_ND, fusion(e_ND, init="xavier", seed=1).embedding)
