"""Procedural scenes: the same on every machine, labelled rightly, apart by seed and world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssprompt_core.data.domains import DOWNSTREAM, UPSTREAM, SceneDomain
from ssprompt_core.data.scenes import THING_ID, draw_scene, hsv_to_rgb
from ssprompt_core.data.shapes import SHAPES
from ssprompt_core.data.textures import SIDE, TEXTURES, texture


@pytest.mark.parametrize("domain", [UPSTREAM, DOWNSTREAM], ids=lambda d: d.name)
@settings(max_examples=15, deadline=None)
@given(index=st.integers(0, 100_000))
def test_labels_of_a_scene_agree(domain: SceneDomain, index: int) -> None:
    scene = draw_scene(domain, 0, index)
    assert scene.image.shape == (SIDE, SIDE, 3)
    assert scene.image.dtype == scene.classes.dtype == np.uint8
    assert len(scene.boxes) == len(scene.hues) == len(np.unique(scene.instances[_things(scene)]))
    for number, (x0, y0, x1, y1) in enumerate(scene.boxes.astype(int)):
        mask = scene.instances == THING_ID + number
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x0, y0, x1, y1)
        (thing_class,) = np.unique(scene.classes[mask])
        assert thing_class == 255 or thing_class >= len(domain.stuff)
    stuff = np.unique(scene.classes[~_things(scene)])
    assert all(c == 255 or c < len(domain.stuff) for c in stuff)


def _things(scene) -> np.ndarray:
    return scene.instances >= THING_ID


def test_a_scene_follows_from_world_seed_and_index() -> None:
    one = draw_scene(DOWNSTREAM, 3, 7)
    assert np.array_equal(one.image, draw_scene(DOWNSTREAM, 3, 7).image)
    for other in (draw_scene(DOWNSTREAM, 4, 7), draw_scene(DOWNSTREAM, 3, 8)):
        assert not np.array_equal(one.image, other.image)
    assert not np.array_equal(one.image, draw_scene(UPSTREAM, 3, 7).image)


def test_the_downstream_world_has_no_decoys_and_at_least_eight_classes() -> None:
    assert len(set(DOWNSTREAM.class_names)) == len(DOWNSTREAM.class_names) >= 8
    seen = {int(c) for i in range(60) for c in np.unique(draw_scene(DOWNSTREAM, 0, i).classes)}
    assert seen == set(range(len(DOWNSTREAM.class_names)))


def test_the_worlds_share_no_class_name_and_no_stuff_look() -> None:
    assert not set(UPSTREAM.class_names) & set(DOWNSTREAM.class_names)
    upstream = {(s.texture, round(s.hue, 1)) for s in UPSTREAM.stuff}
    assert not upstream & {(s.texture, round(s.hue, 1)) for s in DOWNSTREAM.stuff}


@pytest.mark.parametrize("kind", TEXTURES)
def test_textures_stay_in_range(kind: str) -> None:
    pattern = texture(kind, np.random.default_rng(0))
    assert pattern.shape == (SIDE, SIDE)
    assert pattern.min() >= -1e-6
    assert pattern.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_are_about_as_large_as_the_unit_disc(name: str) -> None:
    v, u = np.mgrid[-1.5:1.5:96j, -1.5:1.5:96j].astype(np.float32)
    area = SHAPES[name](u, v).mean() * 9
    assert 0.8 < area < 3.6


def test_hsv_knows_the_primaries() -> None:
    one = np.ones(1, np.float32)
    for hue, rgb in ((0, (1, 0, 0)), (1 / 3, (0, 1, 0)), (2 / 3, (0, 0, 1)), (1.0, (1, 0, 0))):
        np.testing.assert_allclose(hsv_to_rgb(hue, one, one)[0], rgb, atol=1e-5)
