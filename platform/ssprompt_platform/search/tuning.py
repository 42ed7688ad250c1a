"""Runs the search on the cluster: trials as reused Tune actors, or as Ray Train runs in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from ssprompt_platform.failures import IncompleteStudyError
from ssprompt_platform.search.grouped import GroupedSearch
from ssprompt_platform.search.kept_actors import actors_kept
from ssprompt_platform.search.trial import Work
from ssprompt_platform.search.trial_actor import trial_in_actor
from ssprompt_platform.search.trial_train import trial_on_ray_train
from ssprompt_platform.search.work import TrainedWork
from ssprompt_platform.storage import StudyFolder, ray_storage

_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
)
_LOSSES = 10
"""Workers that a trial may lose in one part of a study."""


@dataclass(frozen=True)
class Trainable:
    """How one trial runs on the cluster.

    Attributes:
        function: Takes the searcher's dictionary.
        request: Its resources.
        together: Trials that fit at once; 0: as many as the cluster has resources for.
        reuse: Whether the actor of an ended trial takes the next one.
    """

    function: Callable[[dict[str, Any]], None]
    request: Any
    together: int = 0
    reuse: bool = True


def in_actors(
    work: Work, folder: StudyFolder, request: dict[str, float], cpus: int = 1
) -> Trainable:
    """Trials that one worker does alone."""
    function = tune.with_parameters(
        trial_in_actor, work=work, trials=folder.trials, session=uuid.uuid4().hex, cpus=cpus
    )
    return Trainable(function, request)


def on_ray_train(work: TrainedWork, folder: StudyFolder) -> Trainable:
    """Trials that several workers share."""
    function = tune.with_parameters(
        trial_on_ray_train,
        work=work,
        trials=folder.trials,
        session=uuid.uuid4().hex[:8],
        storage=folder.tune,
    )
    # such a trial only waits for its workers: it must not take a part of a CPU that they need
    # (Tune refuses a request of nothing at all), nor begin while other trials hold all CPUs
    together = max(1, work.bench.resources.slots // work.bench.train.workers_per_trial)
    return Trainable(function, tune.PlacementGroupFactory([{"memory": 1}]), together, reuse=False)


def trainable(work: TrainedWork, folder: StudyFolder) -> Trainable:
    """As ``train.workers_per_trial`` asks for."""
    if work.bench.train.workers_per_trial > 1:
        return on_ray_train(work, folder)
    resources = work.bench.resources
    return in_actors(work, folder, resources.per_worker(), resources.cpus_per_worker)


class _Retold(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells in a line why a trial begins again from its checkpoint."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside the run; nothing of it is ever read again
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Called by Tune in the driver."""
        lines = Path(trial.error_file).read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no cause was told")
        # the name of the error's class is of no use to who reads this
        cause = last.rpartition("StorageError: ")[2].strip()
        self._say(f"trial {trial.config['key']} goes on from its checkpoint after: {cause}")


def run_search(
    searcher: GroupedSearch,
    trial: Trainable,
    folder: StudyFolder,
    max_concurrent: int,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run all remaining trials of the searcher in ONE Tuner; needs a connected Ray.

    Args:
        searcher: Proposes trials and is told their results.
        trial: How one runs.
        folder: Of the study; Tune keeps its own files below it, and none that a study needs.
        max_concurrent: Trials at once; 0: as many as the cluster holds.
        say: Told of each trial that lost its worker or its storage and begins again.

    Raises:
        IncompleteStudyError: Ray lost trials; the same command continues them.
    """
    count = searcher.remaining()
    if not count:
        return
    limit = min((n for n in (max_concurrent, trial.together) if n), default=None)
    # Tune would hand the driver's S3 keys to every trial in its runtime_env, which Ray's logs show;
    # workers have keys of their own: those of the node, or of the driver that started it
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_SECRETS)
    tuner = tune.Tuner(
        tune.with_resources(trial.function, trial.request),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=count,
            max_concurrent_trials=limit,
            reuse_actors=trial.reuse,
            trial_dirname_creator=lambda of: f"{of.config['key']}-{of.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search",
            callbacks=[_Retold(say)],
            **ray_storage(folder.tune),
            verbose=0,
            # a trial that gets nowhere ends by itself; this bounds what dies before it begins
            failure_config=tune.FailureConfig(max_failures=_LOSSES),
        ),
    )
    with actors_kept():
        tuner.fit()
    lost = searcher.interrupted()
    if lost:
        raise IncompleteStudyError(
            f"Ray ended without results of {', '.join(lost)}; the same command continues them"
        )
