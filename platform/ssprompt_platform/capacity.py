"""Waits for the workers that a study asks for, on a cluster that grows when it is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import TrainConfig

VARIABLE = "SSPROMPT_WAIT_FOR_WORKERS"
_POLL_SECONDS = 1.0


@contextmanager
def workers_asked(config: TrainConfig, say: Callable[[str], object]) -> Iterator[None]:
    """Ask the cluster for ``train.workers`` workers, and go on when they have joined.

    A cluster that scales from zero has no worker when a study begins, and what a worker gets
    could not be told from it. Does nothing without ``SSPROMPT_WAIT_FOR_WORKERS`` (seconds) in the
    environment. The cluster is asked until the block ends, so that workers stay between phases.

    Args:
        config: The ``train`` group; ``workers``, ``cpus_per_worker`` and ``gpus_per_worker`` count.
        say: Told once when there is something to wait for.

    Raises:
        UserError: The variable is no number of seconds, ``train.workers`` is 0, or the workers did
            not join in time.
    """
    seconds = _seconds()
    if seconds is None:
        yield
        return
    if not config.workers:
        raise UserError(
            f"{VARIABLE} is set, but train.workers is 0; give the number of workers to wait for"
        )
    worker = {"CPU": float(config.cpus_per_worker)}
    if config.gpus_per_worker:
        worker["GPU"] = config.gpus_per_worker
    request_resources(bundles=[worker] * config.workers)
    try:
        _wait(config, worker, seconds, say)
        yield
    finally:
        # an empty list takes the request back, and idle workers may go
        request_resources(bundles=[])


def _seconds() -> float | None:
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{VARIABLE} is '{given}', but must be a number of seconds above 0")
    return seconds


def _wait(
    config: TrainConfig, worker: dict[str, float], seconds: float, say: Callable[[str], object]
) -> None:
    end, told = time.monotonic() + seconds, False
    while True:
        total = ray.cluster_resources()
        short = {
            name: (total.get(name, 0.0), amount * config.workers)
            for name, amount in worker.items()
            # thirds of a GPU do not add up exactly
            if total.get(name, 0.0) < amount * config.workers - 1e-6
        }
        if not short:
            return
        if time.monotonic() >= end:
            has = " and ".join(
                f"{got:g} of {asked:g} {name}s" for name, (got, asked) in short.items()
            )
            raise UserError(
                f"train.workers asks for {config.workers} workers, but after {seconds:g} seconds "
                f"({VARIABLE}) the cluster has {has}; ask for fewer, or let it grow further"
            )
        if not told:
            say(f"waiting for {config.workers} workers of the cluster")
            told = True
        time.sleep(_POLL_SECONDS)
