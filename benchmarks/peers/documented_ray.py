"""The study as Ray's user guide on tuning with Ray Train has it: a TorchTrainer in every trial.

A Tune function starts one Ray Train run of one worker, in which everything happens: the model is
built, the images are encoded, the setting is fitted and scored. Ray's own defaults all over; the
guide's `max_concurrent_trials` is what fits the machine: a trial's driver takes a CPU by default,
and so does its worker.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers.problem import FIRST, HIGH, LOW, Done, Problem, encode, run_trial


def train_fn_per_worker(config: dict[str, Any]) -> None:
    """What the worker of a trial's Ray Train run does."""
    problem = Problem.read(Path(config["problem"]))
    score = run_trial(problem, encode(problem), config["lr_embedding"], config["lr_weight"])
    ray.train.report({"miou": score})


def train_driver_fn(config: dict[str, Any]) -> None:
    """A trial: start a Ray Train run and wait for it."""
    TorchTrainer(
        train_fn_per_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-{ray.tune.get_context().get_trial_id()}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


class Ended(ray.tune.Callback):
    """Notes when trials end."""

    def __init__(self, done: Done) -> None:
        self._done = done

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Called by Tune in the driver."""
        self._done.add(trial.last_result["miou"])

    def __getstate__(self) -> dict[str, Any]:
        return {}


def main(problem_file: str, done_file: str, storage: str) -> None:
    """Run all trials."""
    problem, done = Problem.read(Path(problem_file)), Done([], [])
    cpus = max(2, len(os.sched_getaffinity(0)))
    ray.init(address="local", num_cpus=cpus, log_to_driver=False)
    tuner = ray.tune.Tuner(
        train_driver_fn,
        param_space={
            "lr_embedding": ray.tune.loguniform(LOW, HIGH),
            "lr_weight": ray.tune.loguniform(LOW, HIGH),
            "problem": problem_file,
            "storage": storage,
        },
        tune_config=ray.tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=OptunaSearch(
                seed=0, points_to_evaluate=[{"lr_embedding": FIRST, "lr_weight": FIRST}]
            ),
            num_samples=problem.trials,
            max_concurrent_trials=cpus // 2,
        ),
        run_config=ray.tune.RunConfig(name="tune", storage_path=storage, callbacks=[Ended(done)]),
    )
    results = tuner.fit()
    ray.shutdown()
    if results.num_errors:
        raise SystemExit(f"trials failed: {results.errors[0]}")
    done.write(Path(done_file))


if __name__ == "__main__":
    main(*sys.argv[1:])
