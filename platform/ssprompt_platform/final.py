"""All final fits of a study as ONE Ray Train run whose workers share the list of fits."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from ssprompt_core.methods import METHODS, FewShotModel
from ssprompt_core.methods.saved import save_prompts
from ssprompt_core.train.fit import FitResult
from ssprompt_core.train.state import TrainState
from ssprompt_platform import checkpoints
from ssprompt_platform.bench import Bench
from ssprompt_platform.causes import DivergedError, cause_of
from ssprompt_platform.cluster import limit_threads
from ssprompt_platform.fit_files import (
    Best,
    fail,
    forget_outdated,
    load_shown,
    prompts_path,
    read_failed,
    read_fits,
    record_path,
    running_path,
    save_shown,
    settled_among,
    unfinished,
)
from ssprompt_platform.fit_info import describe_fit
from ssprompt_platform.fit_queue import FitQueue, LostWorkers, run_again_where_lost
from ssprompt_platform.fits_view import FitsView
from ssprompt_platform.metrics.fits import FitMetrics
from ssprompt_platform.plan import FitKey, StudyPlan, derive_seed
from ssprompt_platform.progress import Progress
from ssprompt_platform.scoring import score_test
from ssprompt_platform.search.space import fit_overrides
from ssprompt_platform.storage import (
    Place,
    S3Path,
    StorageError,
    StudyFolder,
    ray_storage,
    write_json,
    write_whole,
)

__all__ = [
    "WORST",
    "FinalBench",
    "load_shown",
    "prompts_path",
    "read_failed",
    "read_fits",
    "record_path",
    "run_final_fits",
    "run_fit",
    "try_fit",
    "unfinished",
]

WORST = 4
"""Test images of lowest score that are kept for pictures, beside those pictured for all methods."""
_POLL_SECONDS, _POLL_SECONDS_S3 = 0.2, 1.0


@dataclass(frozen=True)
class FinalBench:
    """What the workers of the final run need.

    Attributes:
        bench: Data, embeddings and model.
        plan: Fits, support draws and test images.
        best: Chosen hyperparameters of every group.
        seed: Seed of the study.
        fits: Folder of the fits' files.
        pictured: Test images whose predictions are kept for pictures.
    """

    bench: Bench
    plan: StudyPlan
    best: Best
    seed: int
    fits: Place
    pictured: tuple[str, ...]

    def shows(self, key: FitKey) -> bool:
        """Whether pictures show this fit: draw 0 at the largest K, or a method without a K."""
        largest = max(group.shots for group in self.plan.groups)
        return key.draw == 0 and (key.shots == largest or not METHODS[key.method].uses_support)


def run_final_fits(tools: FinalBench, folder: StudyFolder, progress: Progress) -> int:
    """Do every unfinished fit; needs a connected Ray.

    A fit that fails is recorded with its cause and does not stop the others.

    Returns:
        How many were taken on.
    """
    left = unfinished(tools.plan, tools.fits, tools.best)
    counted = FitMetrics(folder.study_id, tools.plan.fits).counted
    with (
        progress.timed("final fits"),
        FitsView(progress.console, tools.plan.fits, counted=counted) as view,
    ):
        for records in (read_fits, read_failed):
            for key, record in records(tools.plan, tools.fits).items():
                if key not in left:
                    view.known(key, record)
        if not left:
            return 0
        forget_outdated(tools.fits, left)
        resources = tools.bench.resources
        workers = min(resources.workers, len(left))
        queue = ray.remote(num_cpus=0)(FitQueue).remote(left, tools.fits, tools.best)
        shared = ray.put(tools)

        def start() -> None:
            TorchTrainer(
                _final_worker,
                train_loop_config={"tools": shared, "queue": queue},
                # every worker fits alone; the run exists to start them once and to replace them
                scaling_config=ray.train.ScalingConfig(
                    num_workers=workers,
                    use_gpu=resources.gpus_per_worker > 0,
                    resources_per_worker=resources.per_worker(),
                ),
                run_config=ray.train.RunConfig(
                    name="final",
                    **ray_storage(folder.tune),
                    # the queue knows how often is too often: for a fit, and for the run
                    failure_config=ray.train.FailureConfig(max_failures=-1),
                    callbacks=[LostWorkers(queue)],
                ),
            ).fit()

        _wait(lambda: run_again_where_lost(start, queue), left, tools, view)
    return len(left)


def _wait(
    run_fits: Callable[[], None], left: Sequence[FitKey], tools: FinalBench, view: FitsView
) -> None:
    """Run the fits in a thread and show what is settled meanwhile.

    In the main thread the trainer would install its own Ctrl-C handler, which ends with code 0.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            run_fits()
        except BaseException as error:  # noqa: BLE001  (handed to the main thread below)
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    open_fits = list(left)
    while True:
        alive = thread.is_alive()
        for key in settled_among(tools.fits, open_fits):
            open_fits.remove(key)
            view.settled(key, tools.fits)
        if not alive:
            break
        view.tick()
        time.sleep(_POLL_SECONDS_S3 if isinstance(tools.fits, S3Path) else _POLL_SECONDS)
    if failure:
        raise failure[0]


def _final_worker(config: dict[str, Any]) -> None:
    tools: FinalBench = ray.get(config["tools"])
    limit_threads(tools.bench.resources.cpus_per_worker)
    rank = ray.train.get_context().get_world_rank()
    if torch.distributed.is_initialized():
        # the workers share the list, not the gradients: each fit is one worker's own
        torch.distributed.destroy_process_group()
    while (key := ray.get(config["queue"].take.remote(rank))) is not None:
        try_fit(tools, key)


def try_fit(tools: FinalBench, key: FitKey) -> None:
    """Do a fit; one that raises is recorded as failed with its cause."""
    try:
        run_fit(tools, key)
        return
    except StorageError:
        raise  # no fault of the fit: it goes on when the storage is back
    except Exception as error:  # noqa: BLE001  (whatever it is: kept and shown, the others go on)
        cause = cause_of(error)
    # the error is gone now, and with it the tensors that its traceback held
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fail(tools.fits, key, tools.best[key.group], cause)


def run_fit(tools: FinalBench, key: FitKey) -> None:
    """Fit, score once on the test split and keep the result; the JSON comes last.

    Raises:
        DivergedError: The loss became infinite or NaN.
    """
    bench, plan = tools.bench, tools.plan
    seed = derive_seed(tools.seed, key.shots, key.draw)
    hyperparameters = tools.best[key.group]
    uses_support = METHODS[key.method].uses_support
    support_ids = plan.draws[key.draw].support[key.shots]
    model = bench.model(key.group, hyperparameters, seed)
    begun = _Begun.load(tools, key)
    if uses_support:
        fitted_as = _fit(tools, key, model, support_ids, seed, begun)
    fitted = begun.seconds_so_far()
    scoring = time.monotonic()
    shows = tools.shows(key)
    test = score_test(
        bench, model, plan.test_ids, tools.pictured if shows else (), WORST if shows else 0
    )
    scored = time.monotonic() - scoring
    if shows:
        save_shown(tools.fits, key, test.shown)
    info = describe_fit(
        bench,
        key,
        seed=seed,
        hyperparameters=hyperparameters,
        support_ids=support_ids if uses_support else (),
        test_ids=plan.test_ids,
        result=test.score,
    )
    write_whole(prompts_path(tools.fits, key), lambda path: save_prompts(path, model, info))
    write_json(
        record_path(tools.fits, key),
        {
            "method": key.method,
            "shots": key.shots,
            "draw": key.draw,
            "status": "done",
            "seed": seed,
            "miou": test.score.miou,
            "iou": _finite(test.score.iou),
            "image_miou": _finite(test.score.image_miou),
            "hyperparameters": dict(hyperparameters),
            "trainable_parameters": model.trainable_parameters(),
            "support_images": len(support_ids),
            "history": begun.history,
            "best_epoch": fitted_as.best_epoch if uses_support else None,
            "stopped_early": fitted_as.stopped if uses_support else None,
            "seconds": {"fit": fitted, "score": scored},
        },
    )
    checkpoints.clear(running_path(tools.fits, key))


@dataclass
class _Begun:
    """A fit under way.

    Attributes:
        history: What each epoch reported.
        state: What to go on from, or None.
        before: Seconds of the parts before this one, up to the state.
        since: When this part began, on the monotonic clock.
    """

    history: list[dict[str, float | None]]
    state: TrainState | None
    before: float
    since: float

    @classmethod
    def load(cls, tools: FinalBench, key: FitKey) -> _Begun:
        """What a worker before this one left of the fit, if it was of the same hyperparameters."""
        found = checkpoints.load(running_path(tools.fits, key))
        if found is None or found[0]["hyperparameters"] != dict(tools.best[key.group]):
            return cls([], None, 0.0, time.monotonic())
        progress, state = found
        return cls(progress["history"], state, progress["seconds"], time.monotonic())

    def seconds_so_far(self) -> float:
        """Seconds of all parts; what a killed one did after its last checkpoint does not count."""
        return self.before + time.monotonic() - self.since


def _fit(
    tools: FinalBench,
    key: FitKey,
    model: FewShotModel,
    support_ids: Sequence[str],
    seed: int,
    begun: _Begun,
) -> FitResult:
    """Train from the state on; history and state are kept at every checkpoint."""
    bench, hyperparameters = tools.bench, tools.best[key.group]
    place = running_path(tools.fits, key)

    def report(metrics: dict[str, float], state: TrainState | None) -> None:
        # JSON has no NaN: a value of a diverged epoch becomes null
        begun.history.append({k: v if math.isfinite(v) else None for k, v in metrics.items()})
        if state is not None:
            progress = {
                "hyperparameters": dict(hyperparameters),
                "history": begun.history,
                "seconds": begun.seconds_so_far(),
            }
            checkpoints.save(place, progress, state)

    result = bench.fit(
        model,
        support_ids,
        overrides=fit_overrides(hyperparameters),
        epochs=bench.train.epochs,
        seed=seed,
        checkpoint_every=bench.train.checkpoint_every,
        report=report,
        get_checkpoint=lambda: begun.state,
    )
    if not math.isfinite(result.loss):
        raise DivergedError(result.epochs, result.loss)
    return result


def _finite(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """JSON has no NaN, which marks a class or image without a score: it becomes null."""
    return [None if np.isnan(value) else float(value) for value in values]
