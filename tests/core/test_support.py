"""Support draws: nested, sufficient, disjoint from selection, and clear about what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssprompt_core.data.support import SupportDraw, draw_support
from ssprompt_core.errors import UserError

NAMES = ("sky", "road", "car")


def _pool(size: int, seed: int) -> dict[str, frozenset[int]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    return {
        f"image{i:03d}": frozenset(c for c in range(3) if rng.random() < 0.6) for i in range(size)
    }


def _count(ids: tuple[str, ...], pool: dict[str, frozenset[int]], c: int) -> int:
    return sum(c in pool[i] for i in ids)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pool_seed=st.integers(0, 50),
    shots=st.sets(st.integers(1, 12), min_size=1, max_size=4),
)
def test_draws_are_nested_sufficient_and_disjoint(
    seed: int, pool_seed: int, shots: set[int]
) -> None:
    pool = _pool(80, pool_seed)
    draw = draw_support(pool, NAMES, sorted(shots), seed)
    before: set[str] = set()
    for k in sorted(shots):
        support, selection = draw.support[k], draw.selection[k]
        assert before <= set(support)
        before = set(support)
        for c in range(3):
            assert _count(support, pool, c) >= k
            assert _count(selection, pool, c) >= min(k, 4)
        # the support of a smaller K is part of this one
        assert not set(support) & set(selection)
        assert len(set(support)) == len(support)
        assert len(set(selection)) == len(selection)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pool_seed=st.integers(0, 50),
    shots=st.sets(st.integers(1, 12), min_size=1, max_size=4),
    more=st.sets(st.integers(1, 12), max_size=4),
)
def test_other_values_of_k_change_nothing(
    seed: int, pool_seed: int, shots: set[int], more: set[int]
) -> None:
    pool = _pool(80, pool_seed)
    few = draw_support(pool, NAMES, sorted(shots), seed)
    many = draw_support(pool, NAMES, sorted(shots | more), seed)
    assert {k: many.support[k] for k in shots} == few.support
    assert {k: many.selection[k] for k in shots} == few.selection
    without = draw_support(pool, NAMES, sorted(shots), seed, selection=False)
    assert (without.support, without.selection) == (few.support, {})


def test_support_of_a_k_begins_with_that_of_the_k_before() -> None:
    draw = draw_support(_pool(80, 3), NAMES, range(1, 13), 5)
    for k in range(2, 13):
        assert draw.support[k][: len(draw.support[k - 1])] == draw.support[k - 1]


def test_selection_may_take_what_a_larger_k_is_fitted_on() -> None:
    # else selection at K = 1 would change with the largest K of a study
    pool = {f"i{n}": frozenset({0, 1, 2}) for n in range(12)}
    draw = draw_support(pool, NAMES, [1, 8], 0)
    assert set(draw.selection[1]) <= set(draw.support[8])


def test_too_few_images_for_selection_name_k_and_class() -> None:
    # 8 images of 'car' are enough by their number, but those of 'sky' take some of them along
    pool = {f"both{n}": frozenset({0, 2}) for n in range(5)}
    pool |= {f"sky{n}": frozenset({0}) for n in range(4)}
    pool |= {f"car{n}": frozenset({2}) for n in range(3)}
    pool |= {f"road{n}": frozenset({1}) for n in range(9)}
    refused = []
    for seed in range(50):
        try:
            draw = draw_support(pool, NAMES, [4], seed)
        except UserError as error:
            refused.append(str(error))
        else:
            assert _count(draw.selection[4], pool, 2) >= 4
    assert 0 < len(refused) < 50
    assert all("K = 4" in told and "'car'" in told for told in refused)
    assert all("4 selection images" in told for told in refused)


def test_same_seed_same_draw_and_other_seed_other_draw() -> None:
    pool = _pool(80, 3)
    assert draw_support(pool, NAMES, [4], 1) == draw_support(pool, NAMES, [4], 1)
    assert draw_support(pool, NAMES, [4], 1) != draw_support(pool, NAMES, [4], 2)


def test_json_round_trip() -> None:
    draw = draw_support(_pool(80, 3), NAMES, [1, 4], 1)
    assert SupportDraw.from_json(draw.to_json()) == draw


def test_k_larger_than_the_pool_names_the_class_and_the_count() -> None:
    pool = {f"i{n}": frozenset({0, 1, 2} if n < 2 else {0, 1}) for n in range(30)}
    with pytest.raises(UserError, match=r"K = 4.*only 2 with class 'car'"):
        draw_support(pool, NAMES, [4], 0)


def test_a_class_without_a_support_image_is_named() -> None:
    pool = {f"i{n}": frozenset({0, 1}) for n in range(30)}
    with pytest.raises(UserError, match="class 'car' has no support image"):
        draw_support(pool, NAMES, [1], 0)


@pytest.mark.parametrize("shots", [[], [0], [-1, 4]])
def test_shots_must_be_positive(shots: list[int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        draw_support(_pool(80, 3), NAMES, shots, 0)
