"""A whole study: check, encode, search, fit and score, report."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from ssprompt_core.errors import UserError
from ssprompt_platform.bench import Bench, fit_settings
from ssprompt_platform.capacity import workers_asked
from ssprompt_platform.cluster import Resources, connected, resolve_resources
from ssprompt_platform.encode import check_precision, encode_missing
from ssprompt_platform.explain import plan_facts, remarks
from ssprompt_platform.failures import IncompleteStudyError, stops_named
from ssprompt_platform.final import FinalBench, read_failed, run_final_fits
from ssprompt_platform.identity import begin
from ssprompt_platform.live import SearchView
from ssprompt_platform.machines import cluster_machines
from ssprompt_platform.metrics.search import SearchMetrics
from ssprompt_platform.metrics.study import StudyMetrics
from ssprompt_platform.ownership import lost, owned
from ssprompt_platform.plan import Group
from ssprompt_platform.prepare import Prepared
from ssprompt_platform.progress import Progress
from ssprompt_platform.protocol import protocol
from ssprompt_platform.report.front import front_rows
from ssprompt_platform.report.outcome import publish, summarise
from ssprompt_platform.search.budget import Budget
from ssprompt_platform.search.grouped import GroupedSearch
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.space import search_space
from ssprompt_platform.search.tuning import run_search, trainable
from ssprompt_platform.search.work import TrainedWork
from ssprompt_platform.storage import (
    Mirror,
    StudyFolder,
    in_ray_job,
    read_json,
    write_json,
)
from ssprompt_platform.tracking import Tracker, check_tracking, start_tracker

PICTURED = 4
"""Test images in the overlay pictures."""


def run_prepared(prepared: Prepared, progress: Progress) -> StudyFolder:
    """Run, or continue, a study whose inputs were checked.

    Args:
        prepared: The study.
        progress: Where progress and results are shown.

    Returns:
        The study's folder; ``results.json`` lies in it.

    Raises:
        UserError: An input is wrong; nothing of the study was written.
        IncompleteStudyError: It ended, but some of it failed.
        StoppedStudyError: It was stopped and can be continued.
    """
    with progress.timed("check mlflow"):
        check_tracking(prepared.config, prepared.folder)
    if in_ray_job():
        progress.say(f"running as a Ray job; results are kept in {prepared.folder.root}")
    with ExitStack() as stack:
        with progress.timed("start ray"):
            stack.enter_context(connected())
            train = prepared.config.train
            stack.enter_context(workers_asked(train, progress.say))
            resources = resolve_resources(train, cluster_machines())
            check_precision(prepared.config.model.precision, resources.device)
            fit_settings(train, resources.device, train.epochs, prepared.config.study.seed)
            if prepared.config.search.budget.gpu_hours and not resources.gpus_per_worker:
                raise UserError(
                    "search.budget.gpu_hours is set, but the workers get no GPU, so it would never "
                    "end the search; use search.budget.minutes"
                )
        held = stack.enter_context(owned(prepared.folder, say=progress.say))
        prepared = replace(prepared, folder=held)
        stack.enter_context(stops_named(prepared.config, prepared.folder))
        progress.say(_begin(prepared))
        with progress.timed("start mlflow"):
            tracker = start_tracker(prepared, progress.say)
        # its end closes the runs, and waits for what is still to be told
        metrics = StudyMetrics(held.study_id, tracker.waiting, progress.seconds)
        with metrics, tracker:
            missing = _run(prepared, resources, progress, tracker)
    if missing:
        raise IncompleteStudyError("; ".join(missing))
    return prepared.folder


def _mirrored(folder: StudyFolder) -> Mirror:
    """Keep the history of the search in the storage; what is there counts where it is newer."""
    mirror = Mirror(
        folder.optuna,
        folder.optuna_copy,
        lineage=str(read_json(folder.record)["uid"]),
        allowed=lambda: not lost(folder),
    )
    mirror.fetch()
    return mirror


def _begin(prepared: Prepared) -> str:
    """Write the study's record, or take it up again; says which."""
    config, plan = prepared.config, prepared.plan
    return begin(
        prepared.folder,
        config,
        plan,
        prepared.fingerprints,
        facts=plan_facts(config, plan, prepared.dataset),
        protocol=protocol(config, plan, prepared.dataset),
        remarks=remarks(config, plan),
        lock=prepared.lock,
    ).sentence


def _run(
    prepared: Prepared, resources: Resources, progress: Progress, tracker: Tracker
) -> list[str]:
    """Do the work; returns sentences about what failed."""
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
    failed = [group.name for group in plan.groups if group not in best]
    if config.study.mode == "pareto":
        best, failed = _on_front(prepared, best)
    # what is not in it was not chosen, and no fit of it is awaited
    write_json(folder.best, {group.name: values for group, values in best.items()})
    missing = [f"no trial of {name} was completed" for name in failed]
    plan = plan.restricted(list(best))
    if not plan.groups:
        raise IncompleteStudyError("; ".join(missing))
    final = FinalBench(bench, plan, best, config.study.seed, folder.fits, plan.test_ids[:PICTURED])
    run_final_fits(final, folder, progress)
    fits_failed = [key.name for key in read_failed(plan, folder.fits)]
    if fits_failed:
        missing.append(f"the final fits {', '.join(fits_failed)} failed")
    with progress.timed("report"):
        outcome = publish(replace(prepared, plan=plan), final, encoded, progress.seconds, tracker)
    summarise(outcome, progress.console)
    return missing


def _search(
    prepared: Prepared, bench: Bench, progress: Progress, tracker: Tracker
) -> dict[Group, dict[str, Any]]:
    """Best hyperparameters of every group that has some; without a search the defaults."""
    config, folder, plan = prepared.config, prepared.folder, prepared.plan
    best = {
        group: search_space(group.method, config.search.space, config.train).default
        for group in plan.groups
        if group not in plan.searched
    }
    if not plan.searched:
        return best
    work = TrainedWork.of(bench, plan, config.study.seed)
    trial = trainable(work, folder)
    budget = Budget(
        config.search.budget,
        folder.spent,
        bench.resources.gpus_per_worker * config.train.workers_per_trial,
    )
    with progress.timed("search"), _mirrored(folder) as mirror:
        searcher = GroupedSearch(plan, config, folder, budget, mirror.touch)
        totals, ended = searcher.totals(), read_trials(folder)
        view = SearchView(
            progress.console,
            totals,
            ended,
            minutes=config.search.budget.minutes,
            spent_minutes=budget.minutes,
        )
        with closing(searcher), view:
            searcher.observe(tracker, view, SearchMetrics(folder.study_id, totals, ended))
            run_search(searcher, trial, folder, config.search.max_concurrent, view.say)
    return best | searcher.best()


def _on_front(
    prepared: Prepared, best: dict[Group, dict[str, Any]]
) -> tuple[dict[Group, dict[str, Any]], list[str]]:
    """Of the searched groups those on their method's front, and the methods that have none.

    Labels that buy nothing are not worth final fits: the front is the price list.
    """
    plan, trials = prepared.plan, read_trials(prepared.folder)
    kept = {group: values for group, values in best.items() if group not in plan.searched}
    failed = []
    for method in dict.fromkeys(group.method for group in plan.searched):
        own = [trial for trial in trials if trial.method == method]
        if not own:  # the budget left it no time: no K is known to be worth less than another
            kept |= {group: best[group] for group in plan.searched if group.method == method}
            continue
        labelled = {str(k): count for k, count in plan.labelled.items()}
        rows = [row for row in front_rows(own, labelled, pareto=True) if row["on_front"]]
        groups = {Group(method, row["shots"]) for row in rows}
        kept |= {group: best[group] for group in plan.searched if group in groups}
        if not groups:
            failed.append(method)
    return kept, failed
