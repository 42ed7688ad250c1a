"""What tests of several folders start from: paths of the project and a small folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "jobs" / "studies"
COLOURS = np.array([[200, 40, 40], [40, 180, 60], [50, 70, 210]], np.uint8)


def write_image_folder(folder: Path, count: int = 12, side: int = 64, seed: int = 0) -> list[str]:
    """Write pictures of three colour classes, labels and a class list; return study words."""
    rng = np.random.default_rng([seed])
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        label = np.zeros((side, side), np.uint8)
        for class_id in (1, 2):
            y, x = rng.integers(0, side // 2, 2)
            label[y : y + side // 3, x : x + side // 3] = class_id
        noise = rng.integers(-25, 26, (side, side, 3))
        picture = np.clip(COLOURS[label].astype(np.int64) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"frame{number:02d}.png")
        Image.fromarray(label).save(folder / "labels" / f"frame{number:02d}.png")
    (folder / "classes.txt").write_text("ground\nbox\nball\n")
    return [
        "data.kind=folder",
        f"data.images={folder / 'images'}",
        f"data.labels={folder / 'labels'}",
        f"data.classes={folder / 'classes.txt'}",
        "study.shots=[1,2]",
    ]
