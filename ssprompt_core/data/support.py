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

    Support and selection of a K depend on seed, K and pool alone: other values of K, named or not,
    change nothing, so that a study can be extended.

    Attributes:
        seed: Seed of the draw.
        support: For each K, the image ids on which a fit is trained. The draw for a K contains
            the draw for every smaller K.
        selection: For each K, extra labelled images on which hyperparameters are selected;
            disjoint from the support of that K and of every smaller one. It may share images with
            the support of a larger K: the hyperparameters of each K are selected with that K's
            images alone, and what counts there is that no fit is judged on images that it was
            trained on. Keeping clear of a larger K would make it depend on which others are named.
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

    Images are visited in a seeded random order and picked for K = 1, 2, ... one after the other.
    The rarest class is served first, so that one image serves as many classes as it shows; an
    image counts for every class in its label. The selection images of a K are picked in the same
    way from what its support leaves.

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

    support: dict[int, tuple[str, ...]] = {}
    picking = _Picking(order, presence, by_rarity)
    for k in range(1, wanted[-1] + 1):
        picking.fill(k)
        if k in wanted:
            support[k] = tuple(picking.picked)
    selections: dict[int, tuple[str, ...]] = {}
    for k in wanted if selection else ():
        taken = set(support[k])
        rest = _Picking([image for image in order if image not in taken], presence, by_rarity)
        each = min(k, MAX_SELECTION_SHOTS)
        for count in range(1, each + 1):
            shortage = rest.fill(count)
            if shortage is not None:
                raise UserError(
                    f"study.shots asks for K = {k}, but after that support set the train pool has "
                    f"too few images of class '{class_names[shortage]}' left for the {each} "
                    "selection images a class; lower K, label more images or choose "
                    "study.selection=cv"
                )
        selections[k] = tuple(rest.picked)
    return SupportDraw(seed, support, selections)


class _Picking:
    """Picks images in a given order, class by class.

    Attributes:
        picked: What was picked so far.
    """

    def __init__(
        self, order: Sequence[str], presence: Mapping[str, Collection[int]], classes: Sequence[int]
    ) -> None:
        self.picked: list[str] = []
        self._presence = presence
        self._have = dict.fromkeys(classes, 0)
        self._waiting = {c: iter([i for i in order if c in presence[i]]) for c in classes}
        self._chosen: set[str] = set()

    def fill(self, k: int) -> int | None:
        """Pick until each class is in k of the images; return a class that falls short."""
        for c, waiting in self._waiting.items():
            while self._have[c] < k:
                image = next((i for i in waiting if i not in self._chosen), None)
                if image is None:
                    return c
                self._pick(image)
        return None

    def _pick(self, image: str) -> None:
        self.picked.append(image)
        self._chosen.add(image)
        for c in self._presence[image]:
            if c in self._have:
                self._have[c] += 1


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
