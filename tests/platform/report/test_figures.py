"""Pictures of a study: each is a PNG of sane size that shows what it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.methods import METHODS
from ssprompt_core.prompts.spatial import point_grid
from ssprompt_platform.report.figures import colour_labels, learning_curve, overlay
from ssprompt_platform.report.figures_analysis import (
    class_heatmap,
    failure_cases,
    weight_strips,
)
from ssprompt_platform.report.figures_attention import (
    AttentionMaps,
    mean_attention,
    prompt_attention,
)
from ssprompt_platform.report.figures_shown import wrong_share
from ssprompt_platform.shown import ShownImage

RNG = np.random.default_rng([0])


def pixels(path: Path, widest: int = 3700) -> np.ndarray:
    """The pixels of a PNG, after a check of its size."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 600 <= picture.width <= widest
        assert 200 <= picture.height <= 3700
        return np.asarray(picture.convert("RGB"))


def share(picture: np.ndarray, colour: np.ndarray | tuple[int, ...]) -> float:
    """Share of the pixels that have exactly this colour."""
    return float((picture == np.asarray(colour)).all(axis=2).mean())


def cell(mean: float | None, interval: bool) -> dict[str, Any]:
    known = mean is not None and interval
    return {"mean": mean, "ci95": [mean - 0.05, mean + 0.05] if known else None, "draws": []}


def scores(
    classes: int, shots: tuple[int, ...], things: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, per_class = [], []
    for method, spec in METHODS.items():
        for k in shots:
            base = {"method": method, "shots": k}
            side = cell(0.4, spec.uses_support) if things else None
            rows.append(
                {**base, **cell(RNG.uniform(0.1, 0.9), spec.uses_support), "things": side,
                 "stuff": side, "deterministic": not spec.uses_support}
            )  # fmt: skip
            for c in range(classes):
                # one class never occurs in the test images
                value = None if c == 1 else RNG.uniform()
                thing = c > classes // 2 if things else None
                per_class.append(
                    {**base, "class": f"class {c}", "thing": thing,
                     **cell(value, spec.uses_support)}
                )  # fmt: skip
    return rows, per_class


def class_map(height: int, width: int, classes: int = 5) -> np.ndarray:
    return RNG.integers(0, classes, (height, width), dtype=np.uint8)


def picture_of(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shots", [(1,), (1, 2, 4, 8, 16)])
def test_a_learning_curve_of_all_methods(tmp_path: Path, shots: tuple[int, ...]) -> None:
    rows, _ = scores(2, shots, things=True)
    learning_curve(tmp_path / "a.png", rows, "title")
    picture = pixels(tmp_path / "a.png")
    for colour in ((0, 114, 178), (213, 94, 0)):  # the first method that learns, and ssprompt
        assert share(picture, colour) > 1e-4


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 60), (60, 30)])
def test_overlays_show_every_method(tmp_path: Path, height: int, width: int) -> None:
    truth = np.zeros((height, width), np.uint8)
    truth[:5] = IGNORE
    predicted = {m: np.full((height, width), 4, np.uint8) for m in METHODS}
    grey = np.full((height, width, 3), 100, np.uint8)
    overlay(tmp_path / "a.png", grey, truth, predicted, [f"class {c}" for c in range(5)])
    picture = pixels(tmp_path / "a.png")
    tinted = (0.3 * 100 + 0.7 * colour_labels(np.array([[4, 0]], np.uint8))[0]).astype(np.uint8)
    assert share(picture, tinted[0]) > 0.25
    assert 0 < share(picture, tinted[1]) < 0.1
    assert share(picture, (100, 100, 100)) > 0.01


@pytest.mark.parametrize(("classes", "things"), [(3, False), (10, True), (150, True)])
def test_a_heat_map_of_any_number_of_classes(tmp_path: Path, classes: int, things: bool) -> None:
    rows, per_class = scores(classes, (1, 4), things)
    class_heatmap(tmp_path / "a.png", rows, per_class, 4, "title")
    assert share(pixels(tmp_path / "a.png"), (255, 255, 255)) < 0.7


@pytest.mark.parametrize("prompts", [1, 16, 100])
def test_weights_of_any_number_of_prompts(tmp_path: Path, prompts: int) -> None:
    rows = [
        {"method": method, "shots": k, "draw": d, "side": side, "prompt": name, "w": RNG.uniform()}
        for method, sides in (("spa", ["spatial"]), ("ssprompt", ["spatial", "semantic"]))
        for k in (1, 4)
        for d in (0, 1)
        for side in sides
        for name in (range(1, prompts + 1) if side == "spatial" else ("box", "evening sky"))
    ]
    weight_strips(tmp_path / "a.png", rows, "title")
    # the colour of the smallest K, at the dark end
    assert share(pixels(tmp_path / "a.png"), (68, 1, 84)) > 1e-4


def test_failures_of_different_shapes(tmp_path: Path) -> None:
    shapes = [(30, 60), (60, 30), (40, 40)]
    failures = [
        ShownImage(f"image {n}", picture_of(*s), class_map(*s), class_map(*s), 0.1)
        for n, s in enumerate(shapes)
    ]
    failure_cases(tmp_path / "a.png", failures, [f"class {c}" for c in range(5)], "title")
    # four fifths of the pixels are wrong in a quarter of the panels
    assert share(pixels(tmp_path / "a.png"), (0, 0, 0)) > 0.08


def test_pixels_of_no_class_are_not_wrong() -> None:
    truth, predicted = np.array([[0, 1, IGNORE, IGNORE]], np.uint8), np.zeros((1, 4), np.uint8)
    shown = ShownImage("a", np.zeros((1, 4, 3), np.uint8), truth, predicted, 0.5)
    assert wrong_share(shown) == 0.5


def attention(count: int, height: int, width: int) -> AttentionMaps:
    """Default prompts look at a cell near the centre of the square, learned ones at its corner."""
    default, learned = np.full((2, count, 8, 8), 1e-4, np.float32)
    default[:, 3, 3] = learned[:, 7, 7] = 1
    points = point_grid(count).numpy()
    grey = np.full((height, width, 3), 100, np.uint8)
    return AttentionMaps("image", grey, points, default, learned)


@pytest.mark.parametrize("count", [1, 3, 16, 100])
@pytest.mark.parametrize("draw", [
    lambda path, maps: mean_attention(path, [maps, maps], "title"),
    lambda path, maps: prompt_attention(path, maps, "title"),
])  # fmt: skip
def test_attention_of_any_number_of_prompts(
    tmp_path: Path, count: int, draw: Callable[[Path, AttentionMaps], None]
) -> None:
    def bright(height: int, width: int) -> tuple[float, float]:
        """Share of pixels as light as the end of the scale in default and learned maps."""
        draw(tmp_path / "a.png", attention(count, height, width))
        heat = pixels(tmp_path / "a.png").astype(int)
        light = (heat[..., 0] > 190) & (heat[..., 0] - heat[..., 2] > 20)
        learned, scale = (round(heat.shape[1] * part) for part in (0.6, 0.892))
        return float(light[:, :learned].mean()), float(light[:, learned:scale].mean())

    assert min(bright(64, 64)) > 1e-3
    default, learned = bright(32, 64)
    assert default > 1e-3
    # the corner of the square lies in the padding of a wide image, which is cut off
    assert learned == 0
