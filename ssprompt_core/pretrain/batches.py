"""Draws the upstream scenes of one process and random, augmented batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.domains import UPSTREAM, SceneDomain
from ssprompt_core.data.scenes import THING_ID, draw_scene
from ssprompt_core.data.textures import SIDE

MAX_THINGS = 8
NUM_CLASSES = len(UPSTREAM.class_names)
FIRST_THING = len(UPSTREAM.stuff)


@dataclass(frozen=True)
class Scenes:
    """Scenes as arrays.

    Attributes:
        image: uint8 ``[n, 96, 96, 3]``.
        classes: uint8 ``[n, 96, 96]``, 255 = decoy.
        instances: uint8 ``[n, 96, 96]``.
        box: Float32 ``[n, 8, 4]``, boxes of the things in order.
        hue: Float32 ``[n, 8]`` in turns, NaN where there is no thing.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    box: NDArray[np.float32]
    hue: NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Augmented scenes; as :class:`Scenes`, with float images in [0, 255].

    Attributes:
        true_hue: bool ``[B]``; False where the colour channels were swapped.
    """

    image: NDArray[np.float32]
    classes: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    box: NDArray[np.float32]
    hue: NDArray[np.float32]
    true_hue: NDArray[np.bool_]


def draw_share(domain: SceneDomain, count: int, seed: int, rank: int, world_size: int) -> Scenes:
    """Draw the scenes ``rank, rank + world_size, ...`` of the first ``count``."""
    share = range(rank, count - count % world_size, world_size)
    n = len(share)
    scenes = Scenes(
        image=np.zeros((n, SIDE, SIDE, 3), np.uint8),
        classes=np.zeros((n, SIDE, SIDE), np.uint8),
        instances=np.zeros((n, SIDE, SIDE), np.uint8),
        box=np.zeros((n, MAX_THINGS, 4), np.float32),
        hue=np.full((n, MAX_THINGS), np.nan, np.float32),
    )
    for i, index in enumerate(share):
        scene = draw_scene(domain, seed, index)
        scenes.image[i], scenes.classes[i] = scene.image, scene.classes
        scenes.instances[i] = scene.instances
        scenes.box[i, : len(scene.boxes)] = scene.boxes
        scenes.hue[i, : len(scene.hues)] = scene.hues
    return scenes


def draw_batch(scenes: Scenes, size: int, rng: np.random.Generator) -> Batch:
    """A random batch: flips, contrast, colour shifts and at times swapped channels."""
    chosen = rng.integers(0, len(scenes.image), size)
    pixels, classes = scenes.image[chosen].copy(), scenes.classes[chosen].copy()
    instances, box = scenes.instances[chosen].copy(), scenes.box[chosen].copy()
    flip = rng.random(size) < 0.5
    for array in (pixels, classes, instances):
        array[flip] = array[flip][:, :, ::-1]
    left, right = box[flip][..., 0], box[flip][..., 2]
    mirrored = box[flip].copy()
    mirrored[..., 0], mirrored[..., 2] = SIDE - right, SIDE - left
    box[flip] = mirrored
    image = pixels.astype(np.float32)
    contrast = rng.uniform(0.7, 1.2, (size, 1, 1, 1)).astype(np.float32)
    shift = rng.uniform(-25, 25, (size, 1, 1, 3)).astype(np.float32)
    image = (image - 128) * contrast + 128 + shift
    swapped = rng.random(size) < 0.15
    for i in np.nonzero(swapped)[0]:
        image[i] = image[i][..., rng.permutation(3)]
    return Batch(
        image=np.clip(image, 0, 255),
        classes=classes,
        instances=instances,
        box=box,
        hue=scenes.hue[chosen].copy(),
        true_hue=~swapped,
    )


@dataclass(frozen=True)
class GeometryPrompt:
    """One region to segment: bool mask ``[96, 96]``, a point (x, y) in it, a jittered box."""

    mask: NDArray[np.bool_]
    point: tuple[float, float]
    box: NDArray[np.float64]


def draw_geometry(instances: NDArray[np.uint8], rng: np.random.Generator) -> GeometryPrompt:
    """A random thing (three times of four) or any region of one scene."""
    ids = np.unique(instances)
    things = ids[ids >= THING_ID]
    prefer_thing = len(things) > 0 and rng.random() < 0.75
    mask = instances == rng.choice(things if prefer_thing else ids)
    ys, xs = np.nonzero(mask)
    chosen = rng.integers(len(ys))
    tight = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return GeometryPrompt(
        mask=mask,
        point=(xs[chosen] + 0.5, ys[chosen] + 0.5),
        box=np.clip(tight + rng.uniform(-2, 2, 4), 0, SIDE),
    )


def draw_asked_classes(
    classes: NDArray[np.uint8], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Classes to ask one scene for, ``[count]``: present ones first, at least one absent.

    A thing is among them wherever the scene shows one: stuff would crowd things out.
    """
    present = np.setdiff1d(np.unique(classes), [IGNORE])
    absent = np.setdiff1d(np.arange(NUM_CLASSES), present)
    asked = rng.permutation(present)[: count - 1]
    things = present[present >= FIRST_THING]
    if len(things) and not (asked >= FIRST_THING).any():
        asked = np.concatenate([[rng.choice(things)], asked])[: count - 1]
    rest = rng.choice(absent, count - len(asked), replace=False)
    return np.concatenate([asked, rest]).astype(np.int64)
