"""Coarse procedural textures: patterns in [0, 1] over a square canvas."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""Side of every procedural scene in pixels."""

Pattern = NDArray[np.float32]
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
_TAU = 6.28


def smooth_noise(rng: np.random.Generator, cell: float) -> Pattern:
    """Value noise with features of about ``cell`` pixels, float32 ``[SIDE, SIDE]`` in [0, 1]."""
    n = max(2, int(SIDE / cell) + 2)
    grid = rng.random((n, n), dtype=np.float32)
    i, after = _between(n)
    before = 1 - after
    upper, lower = grid[i], grid[i + 1]
    a, one_a = after[:, None], before[:, None]
    # rows and columns are read one after the other; each product is what a gather a pixel gives
    noise: Pattern = np.asarray(
        upper[:, i] * one_a * before
        + lower[:, i] * a * before
        + upper[:, i + 1] * one_a * after
        + lower[:, i + 1] * a * after
    )
    return noise


@lru_cache(maxsize=64)
def _between(n: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Of each pixel along a side: the point of a grid of ``n`` before it, the next one's weight.

    Both ``[SIDE]``; they are shared and never written to.
    """
    x = _X[0] / SIDE * (n - 1.001)
    i = x.astype(int)
    b = x - i
    return i, b * b * (3 - 2 * b)


def _plain(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    return np.full((SIDE, SIDE), 0.5, np.float32)


def _clouds(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    return smooth_noise(rng, 22 * scale) * 0.7 + smooth_noise(rng, 9 * scale) * 0.3


def _grains(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    return smooth_noise(rng, 3.2 * scale)


def _speckle(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    return np.asarray(smooth_noise(rng, 4.5 * scale) > 0.62, np.float32)


def _blotches(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    return np.asarray(smooth_noise(rng, 10 * scale) > 0.5, np.float32)


def _waves(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    period = rng.uniform(6, 9) * scale
    wave = np.sin((_Y + 2.5 * np.sin(_X / 7 + phase)) * _TAU / period + phase)
    return np.asarray(0.5 + 0.5 * wave, np.float32)


def _ripples(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    period = rng.uniform(7, 10) * scale
    cy, cx = rng.uniform(-40, 130, 2)
    ring = np.sin(np.hypot(_Y - cy, _X - cx) * _TAU / period)
    return np.asarray(0.5 + 0.5 * ring, np.float32)


def _blades(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    period = rng.uniform(5, 7) * scale
    bent = _X + 3 * np.sin(_Y / 6 + phase) + 4 * smooth_noise(rng, 12)
    return np.asarray(0.5 + 0.5 * np.sin(bent * _TAU / period), np.float32)


def _stripes(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    angle, period = rng.random() * 3.14, rng.uniform(7, 12) * scale
    along = _X * np.cos(angle) + _Y * np.sin(angle)
    return np.asarray(np.sin(along * _TAU / period + phase) > 0, np.float32)


def _hatch(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    angle, period = rng.random() * 3.14, rng.uniform(6, 9) * scale
    c, s = np.cos(angle), np.sin(angle)
    along, across = _X * c + _Y * s, _Y * c - _X * s
    both = np.sin(along * _TAU / period) * np.sin(across * _TAU / period)
    return np.asarray(0.5 + 0.5 * both, np.float32)


def _bricks(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    height, width = 8 * scale, 15 * scale
    row = np.floor(_Y / height + phase)
    column = _X / width + 0.5 * (row % 2) + phase
    gap = ((_Y / height + phase) % 1 < 0.2) | (column % 1 < 0.12)
    return np.asarray(np.where(gap, 0.05, 0.75), np.float32)


def _tiles(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    period = rng.uniform(9, 13) * scale
    return np.asarray(
        (np.floor(_X / period + phase) + np.floor(_Y / period + phase)) % 2, np.float32
    )


def _dots(rng: np.random.Generator, phase: float, scale: float) -> Pattern:
    period = rng.uniform(8, 11) * scale
    u, v = (_X / period + phase) % 1 - 0.5, (_Y / period + phase) % 1 - 0.5
    return np.asarray(np.hypot(u, v) < 0.3, np.float32)


_PATTERNS: dict[str, Callable[[np.random.Generator, float, float], Pattern]] = {
    "plain": _plain,
    "clouds": _clouds,
    "grains": _grains,
    "speckle": _speckle,
    "blotches": _blotches,
    "waves": _waves,
    "ripples": _ripples,
    "blades": _blades,
    "stripes": _stripes,
    "hatch": _hatch,
    "bricks": _bricks,
    "tiles": _tiles,
    "dots": _dots,
}

TEXTURES = tuple(_PATTERNS)
"""Names of all textures."""


def texture(kind: str, rng: np.random.Generator, scale: float = 1.0) -> Pattern:
    """Draw a texture.

    Args:
        kind: One of :data:`TEXTURES`.
        rng: Source of its phase, angle and period.
        scale: Factor on the size of its features.

    Returns:
        Float32 ``[SIDE, SIDE]`` with values in [0, 1].
    """
    return _PATTERNS[kind](rng, rng.random() * _TAU, scale)
