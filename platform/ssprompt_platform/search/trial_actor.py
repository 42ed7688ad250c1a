"""A search trial that one worker does alone, in a Tune actor that is reused for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from ssprompt_platform.cluster import limit_threads
from ssprompt_platform.plan import Group
from ssprompt_platform.search.trial import TrialBench, run_draws


def trial_in_actor(config: dict[str, Any], tools: TrialBench) -> None:
    """Run the trial that Tune's ``config`` describes."""
    limit_threads(tools.bench.resources.cpus_per_worker)

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        tune.report(metrics, checkpoint=tune.Checkpoint(str(folder)) if folder else None)

    with opened(tune.get_checkpoint()) as checkpoint:
        run_draws(
            tools,
            Group(config["method"], config["shots"]),
            config["hyperparameters"],
            report,
            checkpoint,
        )


@contextmanager
def opened(checkpoint: Any) -> Iterator[Path | None]:
    """The local folder of a checkpoint for the length of a ``with``, or None without one."""
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as folder:
            yield Path(folder)
