"""Waits for the workers that a study asks for, on a cluster that grows when it is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.autoscaler.sdk import request_resources

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.machines import cluster_machines, room

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
    gpus = config.gpus_per_worker
    if gpus is None and config.device == "cuda":
        gpus = 1.0
    if gpus:
        worker["GPU"] = gpus
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
    # counted machine by machine: two CPUs of two machines hold no worker of two CPUs
    while (fitting := room(cluster_machines(), worker)) < config.workers:
        if time.monotonic() >= end:
            each = " and ".join(f"{amount:g} {name}s" for name, amount in worker.items())
            raise UserError(
                f"train.workers asks for {config.workers} workers of {each}, but after {seconds:g} "
                f"seconds ({VARIABLE}) the cluster has room for {fitting}; ask for fewer, or let "
                "it grow further"
            )
        if not told:
            say(f"waiting for {config.workers} workers of the cluster")
            told = True
        time.sleep(_POLL_SECONDS)
