"""The study as a plain Optuna loop: one process, images encoded once, nothing kept on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import torch

from benchmarks.peers.problem import FIRST, HIGH, LOW, Done, Problem, encode, run_trial


def main(problem_file: str, done_file: str, threads: str) -> None:
    """Run all trials one after another."""
    torch.set_num_threads(int(threads))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = Problem.read(Path(problem_file))
    data, done = encode(problem), Done([], [])

    def objective(trial: optuna.Trial) -> float:
        rates = {
            name: trial.suggest_float(name, LOW, HIGH, log=True)
            for name in ("lr_embedding", "lr_weight")
        }
        return run_trial(problem, data, **rates)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial({"lr_embedding": FIRST, "lr_weight": FIRST})
    study.optimize(
        objective, n_trials=problem.trials, callbacks=[lambda _, trial: done.add(trial.value)]
    )
    done.write(Path(done_file))


if __name__ == "__main__":
    main(*sys.argv[1:])
