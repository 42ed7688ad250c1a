"""Reads everything that a study's folder holds, finished or not, for tables, figures and pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.fit_files import failed_path, record_path
from ssprompt_platform.plan import FitKey, Group
from ssprompt_platform.report.front import front_rows
from ssprompt_platform.report.statistics import study_statistics
from ssprompt_platform.report.tables import make_per_class, make_rows
from ssprompt_platform.search.records import TrialRecord, read_trials
from ssprompt_platform.storage import Place, StudyFolder, child_names, read_json

SEARCH = "search"
"""Key of ``ended_by`` for what ended the whole search."""


@dataclass(frozen=True)
class StudyData:
    """What is known of a study, from its folder alone.

    Attributes:
        folder: Its places.
        record: ``study.json``: configuration, fingerprints, facts, protocol and remarks.
        rows: One per method and K with a finished fit, as in ``results.json``.
        per_class: One per method, K and class, as in ``results.json``.
        trials: Every trial of the search.
        fits: Records of the finished final fits.
        failed: Records of the failed ones: method, shots, draw, hyperparameters, cause.
        statistics: ``methods`` and ``shots``: paired comparisons; ``curves``: a learning curve of
            each method, or ``{"refused": sentence}``.
        front: Labelled images against mIoU on the selection images: of each trial where K was
            searched, else of the best trial of each method and K.
        search: ``trials``: number by state; ``failed``: their names and causes; ``spent``: what
            was used of the budget; ``ended_by``: what ended a search before its last trial.
        finished: Nothing is left to do.
        missing: Sentences about what the study lacks.
    """

    folder: StudyFolder
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    per_class: list[dict[str, Any]]
    trials: list[TrialRecord]
    fits: dict[FitKey, dict[str, Any]]
    failed: list[dict[str, Any]]
    statistics: dict[str, Any]
    front: list[dict[str, Any]]
    search: dict[str, Any]
    finished: bool
    missing: list[str]

    @property
    def id(self) -> str:
        """Identity of the study."""
        return self.folder.study_id

    @property
    def facts(self) -> Mapping[str, Any]:
        """Resolved facts of data, model and plan (``study.json``)."""
        facts: Mapping[str, Any] = self.record["facts"]
        return facts

    @property
    def config(self) -> Mapping[str, Any]:
        """The study's configuration by group."""
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences that every table and figure must carry."""
        remarks: Sequence[str] = self.record.get("remarks", ())
        return remarks

    @property
    def protocol(self) -> Sequence[str]:
        """What is done, and on which images anything is selected or scored."""
        protocol: Sequence[str] = self.record.get("protocol", ())
        return protocol

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every method and K of the study, in the order of its table."""
        return tuple(Group(method, int(shots)) for method, shots in self.facts["groups"])


def gather(folder: StudyFolder, targets: Collection[float] = ()) -> StudyData:
    """Read a study's folder; nothing else is asked: no data, no model, no cluster.

    Args:
        folder: Of the study.
        targets: mIoU in (0, 1) that the learning curves are asked for, besides round ones.

    Raises:
        UserError: There is no study, it was begun by an older version, or a file of it is damaged.
    """
    record = _study_record(folder)
    facts = record["facts"]
    groups = [Group(method, int(shots)) for method, shots in facts["groups"]]
    planned = [FitKey(method, int(k), int(draw)) for method, k, draw in facts["fits"]]
    searched = {Group(method, int(shots)) for method, shots in facts["searched"]}
    chosen = _read(folder.best) if folder.best.is_file() else {}
    fits = _fits(folder, record_path, planned, chosen, searched)
    failed = {
        key: value
        for key, value in _fits(folder, failed_path, planned, chosen, searched).items()
        if key not in fits
    }
    trials = read_trials(folder)
    spent = _read(folder.spent) if folder.spent.is_file() else {}
    search: dict[str, Any] = {
        "trials": dict(Counter(trial.state for trial in trials)),
        "failed": [
            {"trial": trial.key, "cause": trial.cause or "no cause was kept"}
            for trial in trials
            if trial.state == "failed"
        ],
        "spent": {name: value for name, value in spent.items() if name != "ended_by"},
        "ended_by": spent.get("ended_by") or {},
    }
    unsearched = _unsearched(record, trials, search["ended_by"])
    # nothing was chosen for them, and so nothing is to be fitted
    done = bool(chosen) and not unsearched
    unchosen = [g for g in groups if done and g in searched and g.name not in chosen]
    waiting = [key for key in planned if key.group not in unchosen]
    unfitted = [key for key in waiting if key not in fits and key not in failed]
    pareto = record["config"]["study"]["mode"] == "pareto"
    return StudyData(
        folder=folder,
        record=record,
        rows=make_rows(groups, fits, facts["things"], facts["labelled"]),
        per_class=make_per_class(groups, fits, facts["classes"], facts["things"]),
        trials=trials,
        fits=fits,
        failed=list(failed.values()),
        statistics=study_statistics(record, fits, targets),
        front=front_rows(trials, facts["labelled"], pareto=pareto),
        search=search,
        finished=not unsearched and not unfitted,
        missing=[
            *unsearched,
            *_unchosen(unchosen, trials),
            *_lacking(groups, waiting, fits, failed),
        ],
    )


def _study_record(folder: StudyFolder) -> dict[str, Any]:
    if not folder.record.is_file():
        raise UserError(f"there is no study in {folder.path}: it holds no {folder.record.name}")
    record: dict[str, Any] = _read(folder.record)
    if "facts" not in record:
        raise UserError(
            f"{folder.record} was written by an older version and holds no 'facts' of the study; "
            "run the study again under another study.id"
        )
    return record


def _read(path: Place) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def _fits(
    folder: StudyFolder,
    place: Callable[[Place, FitKey], Place],
    planned: Sequence[FitKey],
    chosen: Mapping[str, Mapping[str, Any]],
    searched: Collection[Group],
) -> dict[FitKey, dict[str, Any]]:
    """Records by fit, in order; without those of settings that are no longer the chosen ones."""
    there = child_names(folder.fits)
    found = {
        key: _read(path)
        for key in sorted(planned)
        if (path := place(folder.fits, key)).name in there
    }
    return {
        key: record
        for key, record in found.items()
        if _as_chosen(record["hyperparameters"], key.group, chosen, searched)
    }


def _as_chosen(
    setting: Mapping[str, Any],
    group: Group,
    chosen: Mapping[str, Mapping[str, Any]],
    searched: Collection[Group],
) -> bool:
    if not chosen:
        return True
    if group.name in chosen:
        return setting == chosen[group.name]
    # an extended search may choose nothing where it chose something before
    return group not in searched


def _unsearched(
    record: Mapping[str, Any], trials: Sequence[TrialRecord], ended_by: Mapping[str, Any]
) -> list[str]:
    """What the search still has to do, a sentence for each Optuna study."""
    config, cells = record["config"], record["facts"]["searched"]
    pareto = config["study"]["mode"] == "pareto"
    wanted = config["search"]["trials"]
    names = {
        f"{method}-pareto" if pareto else Group(method, int(shots)).name: (
            method if pareto else f"{method} at K = {shots}"
        )
        for method, shots in cells
    }
    if SEARCH in ended_by:
        return []
    ended = Counter(trial.study for trial in trials if trial.state != "running")
    if names and not ended:
        return ["No search trial has ended yet."]
    return [
        f"The search of {what} has ended {ended[name]} of {wanted} trials."
        for name, what in names.items()
        if ended[name] < wanted and name not in ended_by
    ]


def _unchosen(groups: Sequence[Group], trials: Sequence[TrialRecord]) -> list[str]:
    """Why the search chose nothing for some groups."""
    sentences = []
    for group in groups:
        states = {t.state for t in trials if (t.method, t.shots) == (group.method, group.shots)}
        why = "none of its trials ended well"
        if "complete" in states:
            why = "it is off the front of labelled images against mIoU"
        elif not states:
            why = "no trial of the search took this K"
        sentences.append(f"{group.method} at K = {group.shots} has no score: {why}.")
    return sentences


def _lacking(
    groups: Sequence[Group],
    planned: Sequence[FitKey],
    fits: Mapping[FitKey, Any],
    failed: Mapping[FitKey, Any],
) -> list[str]:
    """Final fits that are not there, a sentence for each method and K."""
    if planned and not fits and not failed:
        return ["No final fit is done yet: there are no scores."]
    sentences = []
    for group in groups:
        keys = [key for key in planned if key.group == group]
        done, lost = sum(key in fits for key in keys), sum(key in failed for key in keys)
        if done == len(keys):
            continue
        # a method that trains nothing is fitted once for all K
        what = group.method + (f" at K = {group.shots}" if _learns(group) else "")
        if lost == len(keys):
            sentences.append(f"No final fit of {what} ended well ({lost} failed): it has no score.")
        elif not done + lost:
            sentences.append(f"No final fit of {what} is done yet: it has no score.")
        elif done + lost < len(keys):
            sentences.append(
                f"{done} of {len(keys)} final fits of {what} are done"
                f"{f' and {lost} failed' if lost else ''}."
            )
        else:
            sentences.append(
                f"{lost} of {len(keys)} final fits of {what} failed: its scores are over {done}."
            )
    return sentences


def _learns(group: Group) -> bool:
    return METHODS[group.method].uses_support
