"""All final fits of a study as ONE Ray Train run whose workers share the list of fits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

from ssprompt_platform.cluster import limit_threads
from ssprompt_platform.fit_files import (
    forget_outdated,
    load_shown,
    prompts_path,
    read_failed,
    read_fits,
    record_path,
    settled_among,
    unfinished,
)
from ssprompt_platform.fit_queue import FitQueue, LostWorkers, run_again_where_lost
from ssprompt_platform.fits_view import FitsView
from ssprompt_platform.fitting import (
    WORST,
    FinalBench,
    fits_together,
    run_fit,
    try_fit,
    try_fits,
)
from ssprompt_platform.metrics.fits import FitMetrics
from ssprompt_platform.plan import FitKey
from ssprompt_platform.progress import Progress
from ssprompt_platform.storage import (
    S3Path,
    StudyFolder,
    ray_storage,
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
    "try_fits",
    "unfinished",
]

_POLL_SECONDS, _POLL_SECONDS_S3 = 0.2, 1.0


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
        queue = ray.remote(num_cpus=0)(FitQueue).remote(
            left,
            tools.fits,
            tools.best,
            together=fits_together(tools.bench.train, resources.device),
            workers=workers,
        )
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
    while keys := ray.get(config["queue"].take.remote(rank)):
        try_fits(tools, keys)
