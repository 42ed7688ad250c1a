"""Draws procedural scenes: textured background regions and shaped things, with all labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.domains import SceneDomain
from ssprompt_core.data.shapes import SHAPES, UPRIGHT, Mask
from ssprompt_core.data.textures import SIDE, smooth_noise, texture

THING_ID = 100
"""Instance ids from here on are things; smaller ones are background regions."""

_MIN_AREA, _MAX_TRIES = 60, 24
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image: RGB, uint8 ``[SIDE, SIDE, 3]``.
        classes: Class map, uint8 ``[SIDE, SIDE]``; 255 is a decoy.
        instances: uint8 ``[SIDE, SIDE]``: region number, or 100 + thing number.
        boxes: Float32 ``[T, 4]``, x0, y0, x1, y1 of each thing in pixels, ends exclusive.
        hues: Float32 ``[T]``, hue of each thing in turns.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    hues: NDArray[np.float32]


def draw_scene(domain: SceneDomain, seed: int, index: int) -> Scene:
    """Draw scene number ``index``; equal arguments give equal scenes, on every machine."""
    return _Painter(domain, np.random.default_rng([domain.salt, seed, index])).paint()


def hsv_to_rgb(
    hue: NDArray[np.float32] | float, saturation: NDArray[np.float32], value: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Colours ``[..., 3]`` in [0, 1]; hue in turns, any real number."""
    sextant = np.asarray(hue) % 1 * 6

    def channel(n: int) -> NDArray[np.float32]:
        k = (n + sextant) % 6
        ramp: NDArray[np.float32] = np.clip(np.minimum(k, 4 - k), 0, 1)
        return value - value * saturation * ramp

    return np.stack([channel(5), channel(3), channel(1)], -1)


class _Painter:
    """Paints one scene step by step; the order of the steps is the order of random numbers."""

    def __init__(self, domain: SceneDomain, rng: np.random.Generator) -> None:
        self.domain, self.rng = domain, rng
        self.image = np.zeros((SIDE, SIDE, 3), np.float32)
        self.classes = np.zeros((SIDE, SIDE), np.uint8)
        self.instances = np.zeros((SIDE, SIDE), np.uint8)
        self.boxes: list[tuple[int, int, int, int]] = []
        self.hues: list[float] = []

    def paint(self) -> Scene:
        rng, domain = self.rng, self.domain
        recolour = rng.random() < domain.recolour
        self.hue_shift = rng.random() if recolour else rng.normal(0, domain.hue_jitter)
        layout = self._layout()
        order = rng.permutation(len(domain.stuff))
        for region in range(int(layout.max()) + 1):
            self._paint_region(layout == region, region, int(order[region % len(order)]))
        wanted = int(rng.integers(domain.thing_count[0], domain.thing_count[1] + 1))
        for _ in range(_MAX_TRIES):
            if len(self.boxes) == wanted:
                break
            self._paint_thing()
        light = 1 + domain.illumination * ((smooth_noise(rng, 70) - 0.5) * 2)
        noise = rng.normal(0, rng.uniform(*domain.noise), self.image.shape)
        image = np.clip(self.image * light[..., None] + noise, 0, 1)
        return Scene(
            image=(image * 255).astype(np.uint8),
            classes=self.classes,
            instances=self.instances,
            boxes=np.array(self.boxes, np.float32).reshape(-1, 4),
            hues=np.array(self.hues, np.float32),
        )

    def _layout(self) -> NDArray[np.int64]:
        """Region number of each pixel: bands under a wavy horizon, or warped Voronoi cells."""
        rng = self.rng
        count = int(rng.integers(self.domain.regions[0], self.domain.regions[1] + 1))
        warp_y = (smooth_noise(rng, 26) - 0.5) * 26
        warp_x = (smooth_noise(rng, 26) - 0.5) * 26
        if rng.random() < 0.5:
            cuts = np.sort(rng.uniform(0.18, 0.82, count - 1)) * SIDE
            tilt = rng.normal(0, 0.15)
            height = _Y + warp_y * 0.7 + tilt * (_X - SIDE / 2)
            return np.asarray(np.searchsorted(cuts, height), np.int64)
        seeds = rng.uniform(0, SIDE, (count, 2))
        squared = [(_Y + warp_y - y) ** 2 + (_X + warp_x - x) ** 2 for y, x in seeds]
        return np.asarray(np.argmin(np.stack(squared), 0))

    def _paint_region(self, mask: Mask, region: int, stuff_class: int) -> None:
        rng, domain = self.rng, self.domain
        stuff = domain.stuff[stuff_class]
        decoy = rng.random() < domain.decoys
        kind = str(rng.choice(domain.decoy_textures)) if decoy else stuff.texture
        pattern = texture(kind, rng, float(np.exp(rng.normal(0, 0.15))))
        contrast = rng.uniform(*domain.texture_contrast)
        hue = rng.random() if decoy else stuff.hue
        # colours are made where they are seen
        pattern = pattern[mask]
        hues = hue + self.hue_shift + rng.normal(0, stuff.hue_spread) + 0.04 * (pattern - 0.5)
        saturation = np.clip(rng.uniform(*stuff.saturation) + 0.15 * (pattern - 0.5), 0, 1)
        value = np.clip(rng.uniform(*stuff.value) + contrast * (pattern - 0.5), 0.03, 1)
        self.image[mask] = hsv_to_rgb(hues, saturation, value)
        self.classes[mask] = IGNORE if decoy else stuff_class
        self.instances[mask] = region

    def _paint_thing(self) -> None:
        """Try to place one thing; a place that is taken or too small is given up."""
        rng, domain = self.rng, self.domain
        number = int(rng.integers(len(domain.things)))
        thing = domain.things[number]
        decoy = rng.random() < domain.decoys
        shape = str(rng.choice(domain.decoy_shapes)) if decoy else thing.shape
        mask = self._place(shape)
        if int(mask.sum()) < _MIN_AREA or (self.instances[mask] >= THING_ID).any():
            return
        linked = not decoy and rng.random() < domain.hue_link
        hue = (thing.hue + self.hue_shift + rng.normal(0, 0.035)) if linked else rng.random()
        self.image[mask] = self._thing_colour(float(hue), mask)
        self.classes[mask] = IGNORE if decoy else len(domain.stuff) + number
        self.instances[mask] = THING_ID + len(self.boxes)
        ys, xs = np.nonzero(mask)
        self.boxes.append((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
        self.hues.append(hue % 1)

    def _place(self, shape: str) -> Mask:
        rng = self.rng
        radius = rng.uniform(*self.domain.radius)
        cy, cx = rng.uniform(radius * 0.75, SIDE - radius * 0.75, 2)
        angle = rng.normal(0, 0.35) if shape in UPRIGHT else rng.uniform(0, 6.28)
        stretch = np.exp(rng.uniform(*np.log(self.domain.aspect)))
        c, s = np.cos(angle), np.sin(angle)
        du, dv = (_X - cx) / radius, (_Y - cy) / radius
        return SHAPES[shape]((du * c + dv * s) * stretch, (dv * c - du * s) / stretch)

    def _thing_colour(self, hue: float, mask: Mask) -> NDArray[np.float32]:
        """Colours of the pixels of a mask, float32 ``[n, 3]``."""
        rng = self.rng
        pattern = texture(str(rng.choice(self.domain.thing_textures)), rng, 1.0)[mask]
        brightness = rng.uniform(0.35, 0.95)
        value = np.clip(brightness + rng.uniform(0.1, 0.35) * (pattern - 0.5), 0.05, 1)
        saturation = np.full_like(value, rng.uniform(0.45, 1.0))
        colour = hsv_to_rgb(np.full_like(value, hue), saturation, value)
        # a rim keeps a thing apart from a background that happens to have its colour
        shade = rng.uniform(0.55, 0.85)
        inner = mask.copy()
        for axis in (0, 1):
            inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
        colour[~inner[mask]] *= shade
        return colour
