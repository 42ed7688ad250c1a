"""A small study with everything encoded, whose final fits can be done in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from samples import STUDIES, write_image_folder

from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config import load_config
from ssprompt_platform.final import FinalBench
from ssprompt_platform.prepare import Prepared, prepare
from ssprompt_platform.search.space import search_space


def close(found: Any, expected: Any) -> bool:
    """Equal but for rounding, all the way down."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        # a pixel that changes its class by rounding moves an IoU a little
        return bool(found == pytest.approx(expected, rel=1e-3, abs=1e-3))
    return bool(found == expected)


def small_bench(folder: Path, methods: tuple[str, ...], *words: str) -> tuple[Prepared, FinalBench]:
    """Make pictures, prepare a study of K = 1 and 2 over two draws, and encode its images."""
    small = [
        "study=smoke", "study.draws=2", "search.trials=0", "train.epochs=1",
        "train.steps_per_epoch=2", "train.batch_size=2", "search.space.num_prompts.choices=[4]",
        f"study.methods=[{','.join(methods)}]", f"storage.root={folder / 'runs'}", "study.id=s",
    ]  # fmt: skip
    base = write_image_folder(folder / "data")
    prepared = prepare(load_config([*small, *base, *words], STUDIES))
    plan, dataset, store = prepared.plan, prepared.dataset, prepared.store
    segmenter = prepared.source.build()
    for image_id in plan.image_ids():
        x_B3SS = segmenter.preprocess(dataset.image(image_id))[None]
        store.put(dataset.digest(image_id), segmenter.encode_images(x_B3SS)[0])
    config = prepared.config
    bench = Bench(
        dataset, store, prepared.source, prepared.texts, config.train,
        Resources(1, 1, 1, 0.0, "cpu"),
    )  # fmt: skip
    best = {
        group: dict(search_space(group.method, config.search.space, config.train).default)
        for group in plan.groups
    }
    fits = prepared.folder.fits
    fits.mkdir(parents=True)
    return prepared, FinalBench(bench, plan, best, 0, fits, plan.test_ids[:2])
