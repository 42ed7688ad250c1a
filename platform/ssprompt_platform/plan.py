"""The resolved study: support draws, what is searched, what is fitted, which images are needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.data.support import SupportDraw, draw_support
from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.schema import Config
from ssprompt_platform.search.space import has_choice


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
class StudyPlan:
    """Everything that a study will do, known before it begins.

    Attributes:
        draws: Support draws, one per seed.
        groups: Every (method, K) of the table.
        searched: Those of them with a search.
        fits: Final fits. A method that trains nothing is scored once: K and draw do not change it.
        search_ids: For each (draw number, K) of the search, the images to select on.
        test_ids: Images of the final score.
    """

    draws: tuple[SupportDraw, ...]
    groups: tuple[Group, ...]
    searched: tuple[Group, ...]
    fits: tuple[FitKey, ...]
    search_ids: dict[tuple[int, int], tuple[str, ...]]
    test_ids: tuple[str, ...]

    def image_ids(self) -> list[str]:
        """Images whose embeddings the study uses, each once, in a fixed order."""
        used: dict[str, None] = {}
        largest = max(group.shots for group in self.groups)
        if any(METHODS[fit.method].uses_support for fit in self.fits):
            for draw in self.draws:
                used.update(dict.fromkeys(draw.support[largest]))
        if self.searched:
            for ids in self.search_ids.values():
                used.update(dict.fromkeys(ids))
        used.update(dict.fromkeys(self.test_ids))
        return list(used)


def make_plan(config: Config, dataset: SegmentationDataset) -> StudyPlan:
    """Draw the support sets and list the work.

    Raises:
        UserError: The pool or a split is too small for what the configuration asks.
    """
    study, search = config.study, config.search
    groups = tuple(Group(method, k) for method in study.methods for k in sorted(study.shots))
    trained = tuple(group for group in groups if METHODS[group.method].uses_support)
    searched = tuple(
        group for group in trained if search.trials and has_choice(group.method, search.space)
    )
    own_validation = study.selection == "validation"
    presence = {i: dataset.classes_present(i) for i in dataset.ids("train")}
    draws = tuple(
        draw_support(
            presence,
            dataset.class_names,
            study.shots,
            study.seed + number,
            selection=bool(searched) and not own_validation and number < search.draws,
        )
        for number in range(study.draws)
    )
    validation = dataset.ids("val")
    if own_validation and searched and not validation:
        raise UserError(
            f"study.selection is validation, but the data set '{dataset.name}' has no validation "
            "split; use extra_shots"
        )
    search_ids = {
        (number, k): validation if own_validation else draws[number].selection[k]
        for number in range(search.draws if searched else 0)
        for k in study.shots
    }
    fits = [
        FitKey(group.method, group.shots, number)
        for group in trained
        for number in range(study.draws)
    ]
    untrained = {g.method: min(study.shots) for g in groups if g not in trained}
    fits += [FitKey(method, k, 0) for method, k in untrained.items()]
    return StudyPlan(draws, groups, searched, tuple(fits), search_ids, scored_ids(config, dataset))


def derive_seed(*parts: int | str) -> int:
    """A seed in ``[0, 2**31)`` that depends on all parts and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def scored_ids(config: Config, dataset: SegmentationDataset) -> tuple[str, ...]:
    """Images of the test split that are scored: all, or the sample ``data.max_test_images``.

    Raises:
        UserError: There is none, or none of them shows a class.
    """
    ids = dataset.ids("test")
    if not ids:
        raise UserError(f"the data set '{dataset.name}' has no test image to score on")
    if not any(dataset.classes_present(image_id) for image_id in ids):
        raise UserError(
            f"no test label of '{dataset.name}' shows any class, so nothing can be scored"
        )
    limit = config.data.max_test_images
    if not limit or limit >= len(ids):
        return ids
    chosen = np.random.default_rng([config.study.seed]).choice(len(ids), limit, replace=False)
    return tuple(ids[i] for i in sorted(chosen.tolist()))
