"""Joins or starts a Ray cluster and says what a worker gets of it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.machines import Machine, room, total

_ENVIRONMENT = {
    # the controller polls its workers: 2 s a poll is longer than an epoch of a small fit
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    # paths in configurations are relative to where the user stands, not to a trial's folder
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # a step allocates and frees the same few megabytes again and again: glibc keeps them, instead
    # of giving them back and faulting every page in anew (up to a third of a step on a CPU)
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**28),
    # Ctrl-C ends the study at once; it is continued by its id
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # a trial that is tried again is told in a line, not by a traceback
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # nothing reads Tune's snapshots of all trials back, and each takes longer than the one before
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Resources:
    """What the workers of a study are and get.

    Attributes:
        workers: Workers that encode and run the final fits.
        slots: Workers that fit into the cluster at once.
        cpus_per_worker: CPUs, and torch threads, of each.
        gpus_per_worker: GPUs of each; a fraction shares a GPU.
        device: Where torch computes.
    """

    workers: int
    slots: int
    cpus_per_worker: int
    gpus_per_worker: float
    device: str

    def per_worker(self) -> dict[str, float]:
        """Ray's resource request of one worker."""
        request: dict[str, float] = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            request["GPU"] = self.gpus_per_worker
        return request


def prepare_environment() -> None:
    """Set Ray's switches; in the driver, and in a trial that starts a Ray Train run itself."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def limit_threads(cpus: int) -> None:
    """Keep torch within a worker's CPUs: more threads than CPUs slow every worker down."""
    import torch

    torch.set_num_threads(cpus)


@contextmanager
def connected() -> Iterator[None]:
    """Use the cluster of this process, of ``RAY_ADDRESS``, or an own one for the duration."""
    # here, since a dry run and --help do without Ray, which takes a second to import
    import ray

    prepare_environment()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    ray.init(
        address=os.environ.get("RAY_ADDRESS", "local"),
        # Ray Train inside Ray Tune frees its placement groups through the dashboard's State API
        **({} if "RAY_ADDRESS" in os.environ else {"include_dashboard": True}),
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": dict(_ENVIRONMENT)},
    )
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        ray.shutdown()


def _terminated(*_: object) -> None:
    """End as an error would, so that open runs are closed (``ray job stop`` sends SIGTERM)."""
    sys.exit(128 + signal.SIGTERM)


def resolve_resources(config: TrainConfig, machines: Sequence[Machine]) -> Resources:
    """Fill in what the configuration leaves to the cluster.

    Args:
        config: The ``train`` group.
        machines: What each machine has.

    Raises:
        UserError: The cluster cannot hold what is asked for.
    """
    cpus, gpus = int(total(machines, "CPU")), total(machines, "GPU")
    largest = int(max((machine.get("CPU", 0.0) for machine in machines), default=0))
    if config.cpus_per_worker > largest:
        raise UserError(
            f"train.cpus_per_worker is {config.cpus_per_worker}, but the cluster has {cpus} CPUs"
            + (f", {largest} at most on one machine" if len(machines) > 1 else "")
        )
    share = _gpu_share(config, machines)
    worker = {"CPU": float(config.cpus_per_worker)} | ({"GPU": share} if share else {})
    fitting = room(machines, worker)
    workers = config.workers or max(1, fitting)
    for key, needed in (("workers", workers), ("workers_per_trial", config.workers_per_trial)):
        if needed > fitting:
            raise UserError(
                f"train.{key} asks for {needed} x ({config.cpus_per_worker} CPUs, {share:g} GPUs), "
                f"but the cluster has {cpus} CPUs and {gpus:g} GPUs"
                + (f" on {len(machines)} machines" if len(machines) > 1 else "")
            )
    if config.device == "cuda" and not share:
        raise UserError("train.device is cuda, but the workers get no GPU (train.gpus_per_worker)")
    device = "cuda" if share and config.device != "cpu" else "cpu"
    return Resources(workers, fitting, config.cpus_per_worker, share, device)


def _gpu_share(config: TrainConfig, machines: Sequence[Machine]) -> float:
    """GPUs of a worker: as told, else all GPUs shared among the workers."""
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    gpus = int(total(machines, "GPU"))
    if config.device == "cpu" or not gpus:
        return 0.0
    with_gpus = [machine for machine in machines if machine.get("GPU", 0.0) >= 1]
    fitting = room(with_gpus, {"CPU": float(config.cpus_per_worker)})
    workers = config.workers or max(1, fitting)
    # Ray shares a GPU only in fractions whose multiples fit one GPU
    return 1.0 if workers <= gpus else 1 / -(-workers // gpus)


def free_placement_groups() -> None:
    """Give back all resources that this driver has reserved, and end what holds them."""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group
    from ray.util.state import list_placement_groups

    context = ray.get_runtime_context()
    mine = ("creator_job_id", "=", context.get_job_id())
    # the address is told: another study of this machine may have a cluster of its own
    for group in list_placement_groups(context.gcs_address, filters=[mine], limit=10_000):
        if group.state != "REMOVED":
            identity = PlacementGroupID(bytes.fromhex(group.placement_group_id))
            remove_placement_group(PlacementGroup(identity))


def local_machine() -> Machine:
    """What an own cluster on this machine would have."""
    import torch

    return {"CPU": len(os.sched_getaffinity(0)), "GPU": torch.cuda.device_count()}
