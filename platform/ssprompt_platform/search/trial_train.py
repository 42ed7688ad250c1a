"""A search trial that several workers share, through Ray Train inside the Tune function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from ssprompt_platform import attempts
from ssprompt_platform.causes import cause_of
from ssprompt_platform.cluster import limit_threads, prepare_environment
from ssprompt_platform.search.trial import TrialPlace, TrialTask, give_up, last_report, run_trial
from ssprompt_platform.search.work import TrainedWork
from ssprompt_platform.storage import Place, ray_storage


def trial_on_ray_train(
    config: dict[str, Any], work: TrainedWork, trials: Place, session: str, storage: Place
) -> None:
    """Run the trial that Tune's ``config`` describes.

    Args:
        config: From the searcher.
        work: What trials are made of.
        trials: Folder of the trials' states.
        session: Identity of the driver's process.
        storage: Where Ray Train keeps its own files.
    """
    prepare_environment()
    task = TrialTask.of(config)
    place = TrialPlace(trials / task.key, session, alone=False)
    shared = ray.put(work)
    while (start := attempts.count(place.folder, session)) <= attempts.MOST:
        try:
            _train(config, work, shared, place, f"{task.key}-{session}-{start}", storage)
        except TrainingFailedError as error:
            cause = _own_fault(error)
            if cause is not None:
                break
        else:
            # what the workers reported last may be on its way still, or was told to a Tune actor
            # before this one; Ray Train's own result holds metrics of its checkpoints only
            tune.report(last_report(work, task, place))
            return
    else:
        cause = f"its workers died {attempts.MOST} times without getting on: out of memory?"
    tune.report(give_up(work, task, place, cause))


def _train(
    config: dict[str, Any],
    work: TrainedWork,
    shared: Any,
    place: TrialPlace,
    name: str,
    storage: Place,
) -> None:
    train, resources = work.bench.train, work.bench.resources
    trainer = TorchTrainer(
        _trial_worker,
        train_loop_config={"config": config, "work": shared, "place": place},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.per_worker(),
        ),
        # a fault is not tried again here: whether it may be, its cause decides
        run_config=ray.train.RunConfig(
            name=name, **ray_storage(storage), callbacks=[TuneReportCallback()]
        ),
    )
    trainer.fit()


def _own_fault(error: TrainingFailedError) -> str | None:
    """Why the trial itself failed, or None where the system took a worker away."""
    lost = getattr(error, "controller_failure", None)
    if isinstance(lost, ray.exceptions.RayActorError):
        return None  # a worker died while Ray Train was starting it
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException = getattr(failure, "cause", None) or failure
        if not isinstance(cause, ray.exceptions.RayError):
            return cause_of(cause)
    return None if failures else cause_of(error)


def _trial_worker(given: dict[str, Any]) -> None:
    """One of the workers that share a trial."""
    work: TrainedWork = ray.get(given["work"])
    limit_threads(work.bench.resources.cpus_per_worker)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    own = given["place"]
    run_trial(
        work.shared(rank, world_size),
        TrialTask.of(given["config"]),
        TrialPlace(own.folder, own.session, alone=False, writes=rank == 0),
        ray.train.report,
    )
