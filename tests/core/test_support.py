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
@given(seed=st.integers(0, 10_000), shots=st.sets(st.integers(1, 12), min_size=1, max_size=4))
def test_draws_are_nested_sufficient_and_disjoint(seed: int, shots: set[int]) -> None:
    pool = _pool(80, 3)
    draw = draw_support(pool, NAMES, sorted(shots), seed)
    largest = set(draw.support[max(shots)])
    before: set[str] = set()
    for k in sorted(shots):
        assert before <= set(draw.support[k])
        before = set(draw.support[k])
        for c in range(3):
            assert _count(draw.support[k], pool, c) >= k
            assert _count(draw.selection[k], pool, c) >= min(k, 4)
        assert not largest & set(draw.selection[k])
        assert len(set(draw.support[k])) == len(draw.support[k])


def test_a_smaller_k_does_not_depend_on_the_larger_ones_asked_for() -> None:
    pool = _pool(80, 3)
    assert (
        draw_support(pool, NAMES, [1], 5).support[1]
        == (draw_support(pool, NAMES, [1, 4, 8], 5).support[1])
    )


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
