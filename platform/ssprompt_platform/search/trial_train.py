"""A search trial that several workers share, through Ray Train inside the Tune function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from ssprompt_platform.cluster import limit_threads, prepare_environment
from ssprompt_platform.plan import Group
from ssprompt_platform.search.trial import TrialBench, run_draws
from ssprompt_platform.search.trial_actor import opened


def trial_on_ray_train(config: dict[str, Any], tools: TrialBench, storage: str) -> None:
    """Run the trial that Tune's ``config`` describes; Ray Train keeps its files in ``storage``."""
    prepare_environment()
    train, resources = tools.bench.train, tools.bench.resources
    trainer = TorchTrainer(
        _trial_worker,
        train_loop_config={**config, "tools": ray.put(tools)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.workers_per_trial,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.per_worker(),
        ),
        run_config=ray.train.RunConfig(
            # the same name after a failure of this actor: Ray Train then finds its checkpoint
            name=f"trial-{tune.get_context().get_trial_id()}",
            storage_path=storage,
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    # otherwise a trial that was restarted after its last report would end on a stale value
    tune.report(result.metrics)


def _trial_worker(config: dict[str, Any]) -> None:
    """One of the workers that share a trial."""
    tools: TrialBench = ray.get(config["tools"])
    limit_threads(tools.bench.resources.cpus_per_worker)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        first = folder if rank == 0 else None
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint(str(first)) if first else None)

    with opened(ray.train.get_checkpoint()) as checkpoint:
        run_draws(
            tools,
            Group(config["method"], config["shots"]),
            config["hyperparameters"],
            report,
            checkpoint,
            rank=rank,
            world_size=world_size,
        )
