"""Nested K-shot support draws: which labelled images a fit may see, as JSON."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssprompt_core.errors import UserError

MAX_SELECTION_SHOTS = 4
"""Selection takes ``min(K, 4)`` extra images a class, the protocol of CoOp (arXiv 2109.01134)."""


@dataclass(frozen=True)
class SupportDraw:
    """One seeded draw of labelled images from the train pool.

    Attributes:
        seed: Seed of the draw.
        support: For each K, the image ids on which a fit is trained. The draw for a K contains
            the draw for every smaller K.
        selection: For each K, extra labelled images on which hyperparameters are selected;
            disjoint from the support of every K, and nested like it.
    """

    seed: int
    support: dict[int, tuple[str, ...]]
    selection: dict[int, tuple[str, ...]]

    def to_json(self) -> str:
        """The draw as a JSON object with string keys for K."""
        return json.dumps(
            {
                "seed": self.seed,
                "support": {str(k): list(ids) for k, ids in self.support.items()},
                "selection": {str(k): list(ids) for k, ids in self.selection.items()},
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> SupportDraw:
        """Read what :meth:`to_json` wrote."""
        record = json.loads(text)
        return cls(
            seed=int(record["seed"]),
            support={int(k): tuple(ids) for k, ids in record["support"].items()},
            selection={int(k): tuple(ids) for k, ids in record["selection"].items()},
        )


def draw_support(
    presence: Mapping[str, Collection[int]],
    class_names: Sequence[str],
    shots: Sequence[int],
    seed: int,
    *,
    selection: bool = True,
) -> SupportDraw:
    """Draw nested support sets with at least K labelled images per class.

    Images are visited in a seeded random order. The rarest class is served first, so that one
    image serves as many classes as it shows; an image counts for every class in its label.

    Args:
        presence: For each image of the train pool, the classes in its label.
        class_names: Names of the ``C`` classes; a class is its index.
        shots: The values of K, each at least 1; order and repeats do not matter.
        seed: Seed of the draw; equal arguments give equal draws.
        selection: Whether to draw the extra images for hyperparameter selection too.

    Raises:
        UserError: K is not positive, the pool shows a class in fewer images than the draw
            needs, or in none at all.
    """
    wanted = sorted(set(shots))
    if not wanted or wanted[0] < 1:
        raise UserError(f"study.shots must name whole numbers of at least 1, found {list(shots)}")
    extra = min(wanted[-1], MAX_SELECTION_SHOTS) if selection else 0
    _check_pool(presence, class_names, wanted[-1], extra)

    order = [sorted(presence)[i] for i in np.random.default_rng([seed]).permutation(len(presence))]
    # classes with few images come first: what is left over for them is left over for all
    rarity = {
        c: sum(c in classes for classes in presence.values()) for c in range(len(class_names))
    }
    by_rarity = sorted(rarity, key=lambda c: (rarity[c], c))

    picked: list[str] = []
    support = {}
    for k in wanted:
        _fill(picked, order, presence, by_rarity, k)
        support[k] = tuple(picked)
    taken = set(picked)
    rest = [image for image in order if image not in taken]
    extras: list[str] = []
    selections = {}
    for k in wanted if selection else ():
        shortage = _fill(extras, rest, presence, by_rarity, min(k, MAX_SELECTION_SHOTS))
        if shortage is not None:
            raise UserError(
                f"study.shots asks for K = {wanted[-1]}, but after the support set the train pool "
                f"has too few images of class '{class_names[shortage]}' left for the {extra} "
                "selection images a class; lower K or label more images"
            )
        selections[k] = tuple(extras)
    return SupportDraw(seed, support, selections)


def _fill(
    picked: list[str],
    order: Sequence[str],
    presence: Mapping[str, Collection[int]],
    classes: Sequence[int],
    k: int,
) -> int | None:
    """Extend ``picked`` until each class is in k of its images; return a class that falls short."""
    chosen = set(picked)
    for c in classes:
        have = sum(c in presence[image] for image in picked)
        for image in order:
            if have >= k:
                break
            if image not in chosen and c in presence[image]:
                picked.append(image)
                chosen.add(image)
                have += 1
        if have < k:
            return c
    return None


def _check_pool(
    presence: Mapping[str, Collection[int]], class_names: Sequence[str], k: int, extra: int
) -> None:
    for c, name in enumerate(class_names):
        count = sum(c in classes for classes in presence.values())
        if count == 0:
            raise UserError(
                f"class '{name}' has no support image: no label in the train pool of "
                f"{len(presence)} images contains id {c}; label one or remove the class"
            )
        if count < k + extra:
            more = f" + {extra} for selection" if extra else ""
            raise UserError(
                f"study.shots asks for K = {k}{more} images per class, but the train pool has only "
                f"{count} with class '{name}'; lower K or label more images"
            )
