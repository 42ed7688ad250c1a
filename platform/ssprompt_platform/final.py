"""All final fits of a study as ONE Ray Train run whose workers share the list of fits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer
from safetensors.numpy import load_file, save_file

from ssprompt_core.methods import METHODS
from ssprompt_core.methods.saved import save_prompts
from ssprompt_core.train.fit import FitResult
from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import limit_threads
from ssprompt_platform.fit_info import describe_fit
from ssprompt_platform.plan import FitKey, Group, StudyPlan, derive_seed
from ssprompt_platform.progress import Progress
from ssprompt_platform.scoring import predictions, score, worst_images
from ssprompt_platform.storage import StudyFolder, read_json, write_json, write_whole

WORST = 4
"""Test images of lowest score whose predictions are kept, beside those pictured for all methods."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class FinalBench:
    """What the workers of the final run need.

    Attributes:
        bench: Data with test labels, embeddings and model.
        plan: Fits, support draws and test images.
        best: Chosen hyperparameters of every group.
        seed: Seed of the study.
        fits: Folder of finished fits.
        pictured: Test images whose predictions are kept for pictures.
    """

    bench: Bench
    plan: StudyPlan
    best: Mapping[Group, Mapping[str, Any]]
    seed: int
    fits: Path
    pictured: tuple[str, ...]


def record_path(fits: Path, key: FitKey) -> Path:
    """The JSON of a fit; it exists if and only if the fit is finished."""
    return fits / f"{key.name}.json"


def prompts_path(fits: Path, key: FitKey) -> Path:
    """The learned prompts of a fit (safetensors)."""
    return fits / f"{key.name}.safetensors"


def predictions_path(fits: Path, key: FitKey) -> Path:
    """Predicted class maps of some images (safetensors): the pictured ones and the fit's worst."""
    return fits / "predictions" / f"{key.name}.safetensors"


def load_predictions(fits: Path, key: FitKey) -> dict[str, np.ndarray]:
    """Predicted class maps by image id, uint8 ``[H, W]``."""
    maps: dict[str, np.ndarray] = load_file(predictions_path(fits, key))
    return maps


def unfinished(plan: StudyPlan, fits: Path) -> list[FitKey]:
    """Fits without a result, the costly ones (many shots) first: no worker ends late and alone."""
    left = [key for key in plan.fits if not record_path(fits, key).is_file()]
    return sorted(left, key=lambda key: -key.shots)


def run_final_fits(tools: FinalBench, folder: StudyFolder, progress: Progress) -> int:
    """Do every unfinished fit; needs a connected Ray. Returns how many were done."""
    left = unfinished(tools.plan, folder.fits)
    with progress.phase("final fits", len(left)) as advance:
        if not left:
            return 0
        folder.fits.mkdir(parents=True, exist_ok=True)
        resources = tools.bench.resources
        workers = min(resources.workers, len(left))
        trainer = TorchTrainer(
            _final_worker,
            train_loop_config={
                "tools": ray.put(tools),
                "queue": ray.remote(num_cpus=0)(_FitQueue).remote(left, tools.fits),
            },
            # every worker fits alone; the run exists to start them once and to replace them
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=resources.per_worker(),
            ),
            run_config=ray.train.RunConfig(
                name="final",
                storage_path=str(folder.tune),
                failure_config=ray.train.FailureConfig(max_failures=2),
            ),
        )
        _wait(trainer, left, tools.fits, advance)
    return len(left)


def _wait(trainer: TorchTrainer, left: Sequence[FitKey], fits: Path, advance: Any) -> None:
    """Run the trainer in a thread and count finished fits meanwhile.

    In the main thread the trainer would install its own Ctrl-C handler, which ends with code 0.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (handed to the main thread below)
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    counted = 0
    while True:
        alive = thread.is_alive()
        done = sum(record_path(fits, key).is_file() for key in left)
        if done > counted:
            advance(done - counted)
            counted = done
        if not alive:
            break
        time.sleep(_POLL_SECONDS)
    if failure:
        raise failure[0]


class _FitQueue:
    """Hands out fits; a worker that asks again without a result gets the same fit again."""

    def __init__(self, keys: Sequence[FitKey], fits: Path) -> None:
        self._waiting, self._fits = list(keys), fits
        self._held: dict[int, FitKey] = {}

    def take(self, rank: int) -> FitKey | None:
        """The next fit of a worker, or None when all are handed out."""
        held = self._held.get(rank)
        if held is not None and not record_path(self._fits, held).is_file():
            return held  # the worker was lost and replaced
        self._held.pop(rank, None)
        if not self._waiting:
            return None
        self._held[rank] = self._waiting.pop(0)
        return self._held[rank]


def _final_worker(config: dict[str, Any]) -> None:
    tools: FinalBench = ray.get(config["tools"])
    limit_threads(tools.bench.resources.cpus_per_worker)
    rank = ray.train.get_context().get_world_rank()
    if torch.distributed.is_initialized():
        # the workers share the list, not the gradients: each fit is one worker's own
        torch.distributed.destroy_process_group()
    while (key := ray.get(config["queue"].take.remote(rank))) is not None:
        run_fit(tools, key)


def run_fit(tools: FinalBench, key: FitKey) -> None:
    """Fit, score once on the test split and keep the result; the JSON comes last."""
    bench, plan = tools.bench, tools.plan
    seed = derive_seed(tools.seed, key.shots, key.draw)
    hyperparameters = tools.best[key.group]
    model = bench.model(key.group, hyperparameters, seed)
    history: list[dict[str, float | None]] = []
    begun = time.monotonic()
    uses_support = METHODS[key.method].uses_support
    fitted_as: FitResult | None = None
    if uses_support:
        fitted_as = bench.fit(
            model,
            plan.draws[key.draw].support[key.shots],
            epochs=bench.train.epochs,
            seed=seed,
            checkpoint_every=0,
            report=lambda metrics, state: history.append(_finite(metrics)),
            get_checkpoint=lambda: None,
        )
    fitted = time.monotonic()
    result = score(bench, model, plan.test_ids)
    scored = time.monotonic()
    largest = max(group.shots for group in plan.groups)
    if key.draw == 0 and (key.shots == largest or not uses_support):
        worst = worst_images(plan.test_ids, result.image_miou, WORST)
        maps = predictions(bench, model, list(dict.fromkeys([*tools.pictured, *worst])))
        path = predictions_path(tools.fits, key)
        write_whole(path, lambda temporary: save_file(maps, temporary))
    info = describe_fit(
        bench,
        key,
        seed=seed,
        hyperparameters=hyperparameters,
        support_ids=plan.draws[key.draw].support[key.shots] if uses_support else (),
        test_ids=plan.test_ids,
        result=result,
    )
    save_prompts(prompts_path(tools.fits, key), model, info)
    write_json(
        record_path(tools.fits, key),
        {
            "method": key.method,
            "shots": key.shots,
            "draw": key.draw,
            "seed": seed,
            "miou": result.miou,
            "iou": [None if np.isnan(value) else float(value) for value in result.iou],
            "image_miou": [None if np.isnan(value) else value for value in result.image_miou],
            "hyperparameters": dict(hyperparameters),
            "trainable_parameters": model.trainable_parameters(),
            "support_images": len(plan.draws[key.draw].support[key.shots]),
            "history": history,
            "best_epoch": fitted_as.best_epoch if fitted_as else None,
            "stopped_early": fitted_as.stopped if fitted_as else None,
            "seconds": {"fit": fitted - begun, "score": scored - fitted},
        },
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a value of a diverged epoch becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def read_fits(plan: StudyPlan, fits: Path) -> dict[FitKey, dict[str, Any]]:
    """Records of all finished fits."""
    return {
        key: read_json(record_path(fits, key))
        for key in plan.fits
        if record_path(fits, key).is_file()
    }
