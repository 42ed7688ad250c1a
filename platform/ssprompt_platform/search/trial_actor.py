"""A search trial that one worker does alone, in a Tune actor that is reused for the next one."""

from __future__ import annotations

from typing import Any

from ray import tune

from ssprompt_platform.cluster import limit_threads
from ssprompt_platform.search.trial import TrialPlace, TrialTask, Work, run_trial
from ssprompt_platform.storage import Place


def trial_in_actor(
    config: dict[str, Any], work: Work, trials: Place, session: str, cpus: int
) -> None:
    """Run the trial that Tune's ``config`` describes.

    Args:
        config: From the searcher.
        work: What trials are made of.
        trials: Folder of the trials' states.
        session: Identity of the driver's process.
        cpus: Threads of torch.
    """
    limit_threads(cpus)
    task = TrialTask.of(config)
    run_trial(work, task, TrialPlace(trials / task.key, session), tune.report)
