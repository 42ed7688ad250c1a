"""The resolved study: support draws, what is searched, what is fitted, which images are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.data.support import SupportDraw, draw_support
from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config
from ssprompt_platform.search.space import search_space


@dataclass(frozen=True, order=True)
class Group:
    """One method at one K: what hyperparameters are chosen for."""

    method: str
    shots: int

    @property
    def name(self) -> str:
        """Name in files, tags and tables."""
        return f"{self.method}-k{self.shots}"


@dataclass(frozen=True, order=True)
class FitKey:
    """One final fit."""

    method: str
    shots: int
    draw: int

    @property
    def group(self) -> Group:
        """Method and K of the fit."""
        return Group(self.method, self.shots)

    @property
    def name(self) -> str:
        """Name of the fit's files."""
        return f"{self.method}-k{self.shots}-d{self.draw}"


@dataclass(frozen=True)
class Fold:
    """One fit and one scoring within a search trial.

    Attributes:
        fit_ids: Images that the fit is trained on.
        score_ids: Images that it is scored on, none of the former.
    """

    fit_ids: tuple[str, ...]
    score_ids: tuple[str, ...]


@dataclass(frozen=True)
class StudyPlan:
    """Everything that a study will do, known before it begins.

    Attributes:
        draws: Support draws, one per seed.
        groups: Every (method, K) of the table.
        searched: Those of them with a search.
        fits: Final fits. A method that trains nothing is scored once: K and draw do not change it.
        folds: For each (draw number, K) of the search, what a trial fits and scores; the
            predictions of all folds are pooled. Empty where nothing is searched.
        labelled: For each K, how many labelled images it costs: distinct images of support and
            selection, mean over the draws of the search.
        test_ids: Images of the final score.
    """

    draws: tuple[SupportDraw, ...]
    groups: tuple[Group, ...]
    searched: tuple[Group, ...]
    fits: tuple[FitKey, ...]
    folds: dict[tuple[int, int], tuple[Fold, ...]]
    labelled: dict[int, float]
    test_ids: tuple[str, ...]

    def image_ids(self) -> list[str]:
        """Images whose embeddings the study uses, each once, in a fixed order."""
        used: dict[str, None] = {}
        largest = max(group.shots for group in self.groups)
        if any(METHODS[fit.method].uses_support for fit in self.fits):
            for draw in self.draws:
                used.update(dict.fromkeys(draw.support[largest]))
        for folds in self.folds.values():
            for fold in folds:
                used.update(dict.fromkeys((*fold.fit_ids, *fold.score_ids)))
        used.update(dict.fromkeys(self.test_ids))
        return list(used)

    def restricted(self, groups: Collection[Group]) -> StudyPlan:
        """The same plan with the rows and final fits of some groups only.

        The one fit of a method that trains nothing stays with any K of that method.
        """
        methods = {group.method for group in groups}
        return replace(
            self,
            groups=tuple(group for group in self.groups if group in groups),
            searched=tuple(group for group in self.searched if group in groups),
            fits=tuple(
                key
                for key in self.fits
                if key.group in groups
                or (key.method in methods and not METHODS[key.method].uses_support)
            ),
        )


def make_plan(config: Config, dataset: SegmentationDataset) -> StudyPlan:
    """Draw the support sets and list the work.

    Args:
        config: The configuration.
        dataset: The data, not yet sealed: whether test labels show any class is checked here.

    Raises:
        UserError: The pool or a split is too small for what the configuration asks.
    """
    study, search = config.study, config.search
    groups = tuple(Group(method, k) for method in study.methods for k in sorted(study.shots))
    trained = tuple(group for group in groups if METHODS[group.method].uses_support)
    searched = tuple(
        group
        for group in trained
        if search.trials and search_space(group.method, search.space, config.train).has_choice
    )
    presence = {i: dataset.classes_present(i) for i in dataset.ids("train")}
    extra = bool(searched) and study.selection == "extra_shots"
    draws = tuple(
        draw_support(
            presence,
            dataset.class_names,
            study.shots,
            study.seed + number,
            selection=extra and number < search.draws,
        )
        for number in range(study.draws)
    )
    folds = {
        (number, k): _folds(config, dataset, draws[number], number, k)
        for number in range(search.draws if searched else 0)
        for k in sorted(study.shots)
    }
    fits = [
        FitKey(group.method, group.shots, number)
        for group in trained
        for number in range(study.draws)
    ]
    untrained = {g.method: min(study.shots) for g in groups if g not in trained}
    fits += [FitKey(method, k, 0) for method, k in untrained.items()]
    return StudyPlan(
        draws,
        groups,
        searched,
        tuple(fits),
        folds,
        _labelled(draws[: search.draws], folds),
        scored_ids(config, dataset),
    )


def _folds(
    config: Config, dataset: SegmentationDataset, draw: SupportDraw, number: int, k: int
) -> tuple[Fold, ...]:
    """What a trial at K fits and scores on one draw."""
    selection, support = config.study.selection, draw.support[k]
    if selection == "extra_shots":
        return (Fold(support, draw.selection[k]),)
    if selection == "holdout":
        holdout = dataset.ids("val")
        if not holdout:
            raise UserError(
                f"study.selection is holdout, but the data set '{dataset.name}' has no validation "
                "split; use study.selection=extra_shots or cv"
            )
        return (Fold(support, holdout),)
    if len(support) < 2:
        raise UserError(
            f"study.selection is cv, but the support set of K = {k}, draw {number} is a single "
            "image, which leaves none to score on; use study.selection=extra_shots"
        )
    shuffled = np.random.default_rng([derive_seed("folds", draw.seed, k)]).permutation(support)
    parts = np.array_split(shuffled, min(config.study.folds, len(support)))
    return tuple(
        Fold(
            tuple(image_id for image_id in support if image_id not in part),
            tuple(image_id for image_id in support if image_id in part),
        )
        for part in (frozenset(part.tolist()) for part in parts)
    )


def _labelled(
    draws: Sequence[SupportDraw], folds: Mapping[tuple[int, int], Sequence[Fold]]
) -> dict[int, float]:
    """Distinct labelled images per K, mean over the draws."""
    costs: dict[int, list[int]] = {}
    for number, draw in enumerate(draws):
        for k, support in draw.support.items():
            scored = {i for fold in folds.get((number, k), ()) for i in fold.score_ids}
            costs.setdefault(k, []).append(len(scored | set(support)))
    return {k: sum(counts) / len(counts) for k, counts in sorted(costs.items())}


def derive_seed(*parts: int | str) -> int:
    """A seed in ``[0, 2**31)`` that depends on all parts and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def scored_ids(config: Config, dataset: SegmentationDataset) -> tuple[str, ...]:
    """Images of the test split that are scored: all, or the sample ``data.max_test_images``.

    Raises:
        UserError: There is none, or none of them shows a class.
    """
    ids, limit = dataset.ids("test"), config.data.max_test_images
    if not ids:
        raise UserError(f"the data set '{dataset.name}' has no test image to score on")
    if limit and limit < len(ids):
        chosen = np.random.default_rng([config.study.seed]).choice(len(ids), limit, replace=False)
        ids = tuple(ids[i] for i in sorted(chosen.tolist()))
    if not any(dataset.classes_present(image_id) for image_id in ids):
        raise UserError(
            f"no test label of '{dataset.name}' shows any class, so nothing can be scored"
        )
    return ids
