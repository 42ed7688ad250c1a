"""Makes the study that the peers run: its images, its settings, and the platform's study file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.peers.problem import HIGH, LOW, Problem
from ssprompt_core.data.domains import DOWNSTREAM
from ssprompt_core.data.scenes import draw_scene
from ssprompt_platform.cluster import prepare_environment
from ssprompt_platform.config import load_config
from ssprompt_platform.plan import derive_seed, make_plan
from ssprompt_platform.sources import build_dataset

ROOT = Path(__file__).resolve().parents[2]
_STRIPPED = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def small_problem(folder: Path, quick: bool) -> Problem:
    """The small model on procedural scenes of 10 classes, with the default study's trials.

    Quick: with a quarter of their steps.
    """
    write_scenes(folder, 80, 4, [*DOWNSTREAM.stuff, *DOWNSTREAM.things], lambda classes: classes)
    problem = Problem(
        folder=str(folder),
        model="small",
        checkpoint=None,
        shots=4,
        epochs=2 if quick else 4,
        steps=6 if quick else 12,
        batch_size=2,
        cells=192,
        trials=1,
    )
    return drawn(problem)


def vit_problem(folder: Path) -> Problem:
    """SAM ViT-B as published, its weights random; things against stuff, one image of each kind."""
    from segment_anything import sam_model_registry

    things = len(DOWNSTREAM.stuff)
    write_scenes(
        folder, 12, 1, ["stuff", "thing"], lambda classes: (classes >= things).astype(np.uint8)
    )
    checkpoint = folder / "vit_b.pth"
    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"](checkpoint=None).state_dict(), checkpoint)
    problem = Problem(
        folder=str(folder),
        model="vit_b",
        checkpoint=str(checkpoint),
        shots=1,
        epochs=3,
        steps=4,
        batch_size=1,
        cells=192,
        trials=1,
    )
    return drawn(problem)


def drawn(problem: Problem) -> Problem:
    """The problem with the images and the seed that the platform draws for it."""
    path = platform_study(problem, Path(problem.folder), workers=1)
    config = load_config([f"study={path}"], path.parent)
    plan = make_plan(config, build_dataset(config.data, None))
    (fold,) = plan.folds[0, problem.shots]
    return replace(
        problem,
        support=fold.fit_ids,
        selection=fold.score_ids,
        seed=derive_seed(config.study.seed, problem.shots, 0),
    )


def platform_study(problem: Problem, folder: Path, workers: int) -> Path:
    """Write the platform's study file; its id is ``peers``, its root the folder's ``runs``."""
    images = Path(problem.folder)
    rates = {"low": LOW, "high": HIGH, "log": True}
    study: dict[str, Any] = {
        "study": {"id": "peers", "methods": ["ssprompt"], "shots": [problem.shots], "draws": 1},
        "data": {
            "kind": "folder",
            "images": str(images / "images"),
            "labels": str(images / "labels"),
            "classes": str(images / "classes.txt"),
            "test_list": str(images / "test.txt"),
        },
        "model": {"name": problem.model, "checkpoint": problem.checkpoint},
        "search": {
            "trials": problem.trials,
            "together": workers,
            "max_concurrent": workers,
            "space": {
                "num_prompts": {"choices": [problem.num_prompts]},
                "lr_embedding": rates,
                "lr_weight": rates,
            },
        },
        "train": {
            "epochs": problem.epochs,
            "steps_per_epoch": problem.steps,
            "batch_size": problem.batch_size,
            "cells": problem.cells,
            "workers": workers,
            # more often than by default: the trials are short
            "checkpoint_every": 2,
        },
        "storage": {"root": str(folder / "runs")},
    }
    path = folder / "peers.yaml"
    OmegaConf.save(OmegaConf.create(study), path)
    return path


def environment() -> Mapping[str, str]:
    """What all peers get: the memory settings of the platform's workers, no Ray switches of it."""
    before = {key: value for key, value in os.environ.items() if key not in _STRIPPED}
    prepare_environment()
    memory = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    for key in os.environ.keys() - before.keys() - set(_STRIPPED):
        del os.environ[key]
    return (
        before
        | memory
        | {
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    )


def write_scenes(
    folder: Path, count: int, tests: int, class_names: list[str], of_scene: Any
) -> None:
    """Write procedural scenes as a folder data set.

    Args:
        folder: Made here.
        count: Scenes of the train pool.
        tests: Of the test split.
        class_names: Names by id.
        of_scene: Takes a scene's class map; returns the ids.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    stems = []
    for number in range(count + tests):
        scene = draw_scene(DOWNSTREAM, 0, number)
        label: NDArray[np.uint8] = of_scene(scene.classes)
        stems.append(f"scene{number:03d}")
        Image.fromarray(scene.image).save(folder / "images" / f"{stems[-1]}.png")
        Image.fromarray(label).save(folder / "labels" / f"{stems[-1]}.png")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in class_names))
    (folder / "test.txt").write_text("".join(f"{stem}\n" for stem in stems[count:]))
