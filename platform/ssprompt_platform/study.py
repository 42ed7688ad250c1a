"""A whole study: check, encode, search, fit and score, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from ssprompt_platform.bench import Bench, fit_settings
from ssprompt_platform.cluster import Resources, connected, resolve_resources
from ssprompt_platform.config import load_config
from ssprompt_platform.encode import encode_missing
from ssprompt_platform.final import FinalBench, run_final_fits
from ssprompt_platform.identity import begin, flat_config
from ssprompt_platform.plan import Group
from ssprompt_platform.prepare import Prepared, describe, prepare
from ssprompt_platform.progress import Progress
from ssprompt_platform.report.outcome import publish, summarise
from ssprompt_platform.search.grouped import GroupedSearch, Suggestion
from ssprompt_platform.search.space import default_setting, search_space
from ssprompt_platform.search.trial import TrialBench
from ssprompt_platform.search.tuning import run_search
from ssprompt_platform.sources import WithoutTest
from ssprompt_platform.storage import StudyFolder, in_ray_job, write_json
from ssprompt_platform.tracking import Tracker, tracking_uri

PICTURED = 4
"""Test images in the overlay pictures."""


def run_study(arguments: Sequence[str], studies: Path, console: Console) -> StudyFolder:
    """Run, or continue, the study that the command line describes.

    Args:
        arguments: ``study=<name or path>`` and ``group.key=value`` words.
        studies: Folder of the named study files.
        console: Where progress and results are shown.

    Returns:
        The study's folder; ``results.json`` lies in it unless it was a dry run.

    Raises:
        UserError: An input is wrong; nothing of the study was written.
    """
    progress = Progress(console)
    with progress.timed("prepare"):
        prepared = prepare(load_config(arguments, studies))
    folder = prepared.folder
    if prepared.config.study.dry_run:
        describe(prepared, console)
        return folder
    if in_ray_job():
        progress.say(f"running as a Ray job; results are kept in {folder.root}")
    with ExitStack() as stack:
        with progress.timed("start ray"):
            stack.enter_context(connected())
            train = prepared.config.train
            resources = resolve_resources(train, ray.cluster_resources())
            fit_settings(train, resources.device, train.epochs, prepared.config.study.seed)
        begin(folder, prepared.config, prepared.plan, prepared.fingerprints)
        progress.say(f"study {folder.study_id}")
        with progress.timed("start mlflow"):
            tracker = _tracker(prepared)
        try:
            _run(prepared, resources, progress, tracker)
        except BaseException as error:
            tracker.abandon("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    return folder


def _run(prepared: Prepared, resources: Resources, progress: Progress, tracker: Tracker) -> None:
    config, folder, plan = prepared.config, prepared.folder, prepared.plan
    encoded = encode_missing(
        prepared.dataset,
        plan.image_ids(),
        prepared.store,
        prepared.source,
        resources,
        config.train.eval_batch_size,
        progress,
    )
    bench = Bench(
        prepared.dataset,
        prepared.store,
        prepared.source,
        prepared.texts,
        config.train,
        resources,
    )
    best = _search(prepared, bench, progress, tracker)
    final = FinalBench(bench, plan, best, config.study.seed, folder.fits, plan.test_ids[:PICTURED])
    run_final_fits(final, folder, progress)
    with progress.timed("report"):
        outcome = publish(prepared, final, encoded, progress.seconds, tracker)
    summarise(outcome, progress.console)


def _search(
    prepared: Prepared, bench: Bench, progress: Progress, tracker: Tracker
) -> dict[Group, dict[str, Any]]:
    """Best hyperparameters of every group; without a search the defaults inside the space."""
    config, folder, plan = prepared.config, prepared.folder, prepared.plan
    best = {
        group: default_setting(group.method, search_space(group.method, config.search.space))
        for group in plan.groups
    }
    count = len(plan.searched) * config.search.trials
    with progress.phase("search trials", count) as advance:
        if plan.searched:
            searcher = GroupedSearch(
                plan.searched,
                config.search,
                folder.optuna,
                folder.study_id,
                config.study.seed,
                _Observer(tracker, advance),
            )
            advance(count - searcher.remaining())
            tools = TrialBench(
                bench.with_dataset(WithoutTest(prepared.dataset)),
                plan.draws[: config.search.draws],
                plan.search_ids,
                config.study.seed,
                config.search.epochs or config.train.epochs,
            )
            run_search(searcher, tools, folder, config.search.max_concurrent)
            best |= {group: trial.hyperparameters for group, trial in searcher.best().items()}
    write_json(folder.best, {group.name: values for group, values in best.items()})
    return best


class _Observer:
    """Tells the tracker and the progress bar about trials."""

    def __init__(self, tracker: Tracker, advance: Callable[[int], None]) -> None:
        self._tracker, self._advance = tracker, advance

    def started(self, trial: Suggestion) -> None:
        self._tracker.started(trial)

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        self._tracker.reported(trial, metrics)

    def ended(self, trial: Suggestion, value: float | None) -> None:
        self._tracker.ended(trial, value)
        self._advance(1)


def _tracker(prepared: Prepared) -> Tracker:
    config, folder = prepared.config, prepared.folder
    return Tracker(
        tracking_uri(config, folder),
        config.tracking.experiment,
        folder.root / "mlflow-artifacts",
        folder.study_id,
        folder.study_id,
        {"kind": "study", **flat_config(config), **prepared.fingerprints},
    )
