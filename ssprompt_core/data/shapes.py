"""Shapes of things, as masks in their own coordinates: the unit disc is about their size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float32]
Mask = NDArray[np.bool_]

UPRIGHT = frozenset({"triangle", "crescent", "snowman", "arrow"})
"""Shapes that are drawn about upright; the others at any angle."""


def _radius(u: Coordinates, v: Coordinates) -> Coordinates:
    return np.asarray(np.hypot(u, v))


def _petals(u: Coordinates, v: Coordinates, count: int, mean: float, depth: float) -> Mask:
    return np.asarray(np.hypot(u, v) < mean + depth * np.cos(count * np.arctan2(v, u)))


def _cross(u: Coordinates, v: Coordinates) -> Mask:
    a, b = np.abs(u), np.abs(v)
    return (np.minimum(a, b) < 0.34) & (np.maximum(a, b) < 1)


def _ring(u: Coordinates, v: Coordinates) -> Mask:
    return (_radius(u, v) < 1.05) & (_radius(u, v) > 0.52)


def _crescent(u: Coordinates, v: Coordinates) -> Mask:
    return np.asarray((_radius(u, v) < 1.05) & (np.hypot(u - 0.5, v) > 0.8))


def _snowman(u: Coordinates, v: Coordinates) -> Mask:
    return np.asarray((np.hypot(u, v - 0.35) < 0.7) | (np.hypot(u, v + 0.6) < 0.45))


def _arrow(u: Coordinates, v: Coordinates) -> Mask:
    shaft = (np.abs(v) < 0.28) & (u > -1) & (u < 0.2)
    return np.asarray(shaft | ((u >= 0.1) & (np.abs(v) < (1.05 - u) * 0.85)))


SHAPES: dict[str, Callable[[Coordinates, Coordinates], Mask]] = {
    "disc": lambda u, v: _radius(u, v) < 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.85,
    "triangle": lambda u, v: (v < 0.6) & (1.732 * np.abs(u) - v < 1.0),
    "star": lambda u, v: _petals(u, v, 5, 0.68, 0.34),
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda u, v: np.abs(u) * 1.45 + np.abs(v) < 1.1,
    "bar": lambda u, v: (np.abs(v) < 0.36) & (np.abs(u) < 1.1),
    "crescent": _crescent,
    "flower": lambda u, v: _petals(u, v, 6, 0.78, 0.24),
    "snowman": _snowman,
    "arrow": _arrow,
}
"""Mask functions by name: float coordinates ``u, v`` of any equal shape -> bool."""
