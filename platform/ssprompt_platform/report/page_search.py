"""Sections of the page about the search: history, effects, importance, price of labels, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial

from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import SpaceConfig
from ssprompt_platform.report import figures_search
from ssprompt_platform.report.figures_base import Album
from ssprompt_platform.report.figures_front import price_list
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.report.importance import LEAST_TRIALS, MOST_TRIALS, importances
from ssprompt_platform.report.page_blocks import (
    Block,
    Fold,
    Notice,
    Prose,
    Section,
    exhibit,
    remarked,
)
from ssprompt_platform.report.page_cells import plain
from ssprompt_platform.report.page_tables_search import cost_rows, front_rows, trial_rows
from ssprompt_platform.report.thinned import thinned, told
from ssprompt_platform.search.records import TrialRecord

_MEANT: dict[str, str] = {
    option.name: str(option.metadata["meaning"]).partition(";")[0].partition(":")[0]
    for option in fields(SpaceConfig)
}
"""Hyperparameter -> what it is."""


_SPENT = {
    "minutes": "{} minutes",
    "gpu_hours": "{} GPU hours",
    "trial_seconds": "{} seconds in trials",
}


def search_sections(data: StudyData, album: Album) -> list[Section]:
    """Sections about the search; one sentence where there was none."""
    if not data.trials:
        sentence = "There was no search so far: every fit has the documented defaults."
        if data.facts["searched"] and not data.finished:
            sentence = "No trial has ended so far."
        return [Section("search", "Search", [Prose([sentence])])]
    sections = [
        Section("search", "Search", _history(data, album)),
        Section("effects", "Effects of hyperparameters", _effects(data, album)),
        Section("price", "Price list of labels", _price(data, album)),
        Section("cost", "Cost of trials", _cost(data, album)),
    ]
    return [section for section in sections if section.blocks]


def _history(data: StudyData, album: Album) -> list[Block]:
    states = data.search["trials"]
    counts = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    blocks: list[Block] = [Prose([f"{sum(states.values())} trials: {counts}."])]
    ended = [f"{name}: {sentence}" for name, sentence in data.search["ended_by"].items()]
    if ended:
        blocks.append(Notice("What ended a search before its last trial", points=ended))
    spent = [_SPENT[n].format(plain(v)) for n, v in data.search["spent"].items() if n in _SPENT]
    if spent:
        blocks.append(Prose([f"Spent on the search so far: {', '.join(spent)}."]))
    shown = thinned(data.trials)
    if any(t.value is not None for t in shown):
        picture = album.draw(
            "search-history", "Search, trial by trial", lambda: figures_search.history(shown)
        )
        caption = (
            "Every mark is a trial, the line is the best finished trial so far at this K. A cross "
            "is a trial that was ended early, at the value it was judged by; a triangle at the "
            "lower edge is one that failed; an open circle repeats a setting whose score was known."
            + told(len(shown), len(data.trials))
        )
        blocks.append(exhibit(picture, "Search, trial by trial", caption, remarks=data.remarks))
    failed = [t for t in data.trials if t.state == "failed"]
    if failed:
        blocks.append(Notice(f"Trials that failed: {len(failed)}", "missing", _causes(failed)))
    table = trial_rows(shown)
    whole = len(shown) == len(data.trials)
    head = f"All {len(shown)} trials" if whole else f"{len(shown):,} of {len(data.trials):,} trials"
    blocks.append(Fold(head, [remarked(table, data.remarks)]))
    return blocks


def _causes(failed: Sequence[TrialRecord]) -> list[str]:
    """Each cause once, with the trials it ended."""
    trials: dict[str, list[str]] = {}
    for t in failed:
        trials.setdefault(t.cause or "no cause was kept", []).append(t.key)
    return [
        f"{cause} ({', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''})"
        for cause, keys in trials.items()
    ]


def _effects(data: StudyData, album: Album) -> list[Block]:
    shown = thinned(data.trials)
    names = figures_search.varied(shown)
    blocks: list[Block] = []
    if names:
        caution = (
            "In each of these figures the other hyperparameters vary from point to point too, and "
            "a sampler tries more where scores were high: read a trend, not the effect of one "
            "hyperparameter alone."
        )
        blocks.append(Prose([caution]))
    for name in names:
        title = f"Score of trials over the {_MEANT.get(name, name)}"
        log = _is_log(data, name)
        picture = album.draw(
            f"effect-{name}", title,
            partial(figures_search.effect, shown, name, log=log),
        )  # fmt: skip
        caption = "Each point is a finished trial, a ring the best of its K."
        caption += told(len(shown), len(data.trials))
        blocks.append(exhibit(picture, title, caption, remarks=data.remarks))
    found = importances(data.folder)
    if found.shares:
        names = list(dict.fromkeys(name for own in found.shares.values() for name in own))
        title = "Importance of hyperparameters"
        picture = album.draw(
            "importance", title, lambda: figures_search.importance(found.shares, names)
        )
        caption = (
            "Functional ANOVA (Hutter et al. 2014) of a random forest fitted to the finished "
            "trials: the share of the scores' variance that a hyperparameter explains by itself "
            "within the range that was searched; a row sums to 1. A dash: not part of that search, "
            "or only of some of its trials. With tens of trials these are rough; of more than "
            f"{MOST_TRIALS} finished ones of a search, that many at even distances count."
        )
        blocks.append(exhibit(picture, title, caption, remarks=data.remarks))
    if found.untold:
        sentence = (
            f"Importance is not told for {len(found.untold)} of "
            f"{len(found.untold) + len(found.shares)} searches (at least {LEAST_TRIALS} finished, "
            "distinct trials are needed)"
        )
        reasons = [f"{search}: {reason}" for search, reason in found.untold.items()]
        blocks.append(Notice(sentence, points=reasons if len(reasons) <= 8 else _counted(reasons)))
    return blocks


def _counted(reasons: list[str]) -> list[str]:
    """Equal reasons once, with how many searches they are of."""
    kinds = [reason.rpartition(": ")[2] for reason in reasons]
    return [f"{kinds.count(kind)} searches: {kind}" for kind in dict.fromkeys(kinds)]


def _is_log(data: StudyData, name: str) -> bool:
    dimension = data.config["search"]["space"].get(name) or {}
    values = [t.params[name] for t in data.trials if name in t.params]
    numbers = all(isinstance(v, int | float) and v > 0 for v in values)
    return numbers and bool(dimension.get("log") or name.startswith("lr_"))


def _price(data: StudyData, album: Album) -> list[Block]:
    points = [p for p in data.front if p["labelled"] is not None and p["value"] is not None]
    if not points:
        return []
    searched = data.config["study"]["mode"] == "pareto"
    title = "What labelled images buy"
    methods = list(dict.fromkeys(method for method, _ in data.facts["groups"]))
    fixed = {method for method in methods if not METHODS[method].uses_support}
    picture = album.draw("price-list", title, lambda: price_list(points, methods, fixed))
    what = "a trial" if searched else "the best trial of a method and K"
    caption = (
        f"Each point is {what}. Those on the line are the front: nothing that was tried needs "
        "fewer labelled images and scores higher. Their numbers are those of the table below."
    )
    return [
        exhibit(picture, title, caption, remarks=data.remarks),
        remarked(front_rows(points), data.remarks),
    ]


def _cost(data: StudyData, album: Album) -> list[Block]:
    if not any(t.seconds for t in data.trials):
        return []
    title = "Seconds of a trial"
    shown = thinned(data.trials)
    picture = album.draw("cost", title, lambda: figures_search.cost(shown))
    caption = (
        "Each point is a trial, the bar their median. The scale is logarithmic. Trials that were "
        "pruned or that failed are shorter than whole ones." + told(len(shown), len(data.trials))
    )
    return [
        exhibit(picture, title, caption, remarks=data.remarks),
        remarked(cost_rows(data.trials), data.remarks),
    ]
