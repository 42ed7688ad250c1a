"""Runs the search on the cluster: trials as reused Tune actors, or as Ray Train runs in them."""

from __future__ import annotations

from typing import Any

from ray import tune

from ssprompt_platform.search.grouped import GroupedSearch
from ssprompt_platform.search.trial import TrialBench
from ssprompt_platform.search.trial_actor import trial_in_actor
from ssprompt_platform.search.trial_train import trial_on_ray_train
from ssprompt_platform.storage import StudyFolder


def run_search(
    searcher: GroupedSearch, tools: TrialBench, folder: StudyFolder, max_concurrent: int
) -> None:
    """Run all remaining trials of the searcher in ONE Tuner; needs a connected Ray.

    Args:
        searcher: Proposes trials and is told their results.
        tools: What every trial needs.
        folder: Of the study; Tune keeps its checkpoints below it.
        max_concurrent: Trials at once; 0: as many as the cluster holds.
    """
    count = searcher.remaining()
    if not count:
        return
    resources = tools.bench.resources
    shared = tools.bench.train.workers_per_trial > 1
    if shared:
        # such a trial only waits for its workers: it must not take a part of a CPU that they need
        # (Tune refuses a request of nothing at all), nor begin while other trials hold all CPUs
        function = tune.with_parameters(trial_on_ray_train, tools=tools, storage=str(folder.tune))
        request: Any = tune.PlacementGroupFactory([{"memory": 1}])
        together = max(1, resources.slots // tools.bench.train.workers_per_trial)
        max_concurrent = min(max_concurrent or together, together)
    else:
        function = tune.with_parameters(trial_in_actor, tools=tools)
        request = resources.per_worker()
    tuner = tune.Tuner(
        tune.with_resources(function, request),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=count,
            max_concurrent_trials=max_concurrent or None,
            reuse_actors=not shared,
            trial_dirname_creator=lambda trial: (
                f"{trial.config['method']}-k{trial.config['shots']}-"
                f"t{trial.config['number']:03d}-{trial.trial_id}"
            ),
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder.tune),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )
    tuner.fit()
