"""What a study's scores say: paired comparisons on the same draws, and a curve of each method."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ssprompt_core.methods import METHODS
from ssprompt_platform.plan import FitKey
from ssprompt_platform.stats.compare import compare_methods, compare_shots
from ssprompt_platform.stats.curve import Curve, fit_curve

Draws = dict[str, dict[int, list[float | None]]]
"""Method -> K -> mIoU of every draw, in the order of draws; None where a fit is missing."""

_STEPS = (0.05, 0.1)
_MOST_TARGETS = 8


def study_statistics(
    record: Mapping[str, Any],
    fits: Mapping[FitKey, Mapping[str, Any]],
    targets: Collection[float] = (),
) -> dict[str, Any]:
    """Comparisons and curves of the finished fits, as in ``results.json``.

    Args:
        record: ``study.json``.
        fits: Records of the finished fits; a missing one leaves its draw out of every pair.
        targets: mIoU in (0, 1) that curves are asked for, besides round ones.
    """
    facts, study = record["facts"], record["config"]["study"]
    scores = draws_by_method(facts, study["draws"], fits)
    fixed = {method for method in scores if not METHODS[method].uses_support}
    labelled = {int(k): float(images) for k, images in facts["labelled"].items()}
    learning = {method: of_k for method, of_k in scores.items() if method not in fixed}
    asked = sorted({*round_targets(learning), *targets})
    curves = {}
    for method, of_k in learning.items():
        curve = fit_curve(of_k, labelled=labelled, seed=study["seed"])
        curves[method] = curve.to_dict(asked) if isinstance(curve, Curve) else curve.to_dict()
    return {
        "methods": compare_methods(scores, deterministic=fixed),
        "shots": compare_shots(scores, deterministic=fixed, labelled=labelled),
        "curves": curves,
    }


def round_targets(scores: Draws) -> list[float]:
    """Round mIoU from about the lowest mean of any method and K to just above the highest."""
    means = [
        sum(known) / len(known)
        for of_k in scores.values()
        for values in of_k.values()
        if (known := [value for value in values if value is not None])
    ]
    found: list[float] = []
    for step in _STEPS if means else ():
        first, last = math.ceil(min(means) / step), math.floor(max(means) / step) + 1
        found = [round(n * step, 2) for n in range(max(1, first), last + 1) if n * step < 1]
        if len(found) <= _MOST_TARGETS:
            break
    return found


def telling_targets(rows: Sequence[Mapping[str, Any]], targets: Sequence[float]) -> list[float]:
    """The highest target that every learning method has reached, and the highest that one has."""
    reached: dict[str, float] = {}
    for row in rows:
        if not row["deterministic"]:
            reached[row["method"]] = max(row["mean"], reached.get(row["method"], 0.0))
    limits = {min(reached.values()), max(reached.values())} if reached else set()
    if not targets:
        return []
    # below the lowest target nothing is asked: that one is nearest
    return sorted({max([t for t in targets if t <= limit] or [min(targets)]) for limit in limits})


def draws_by_method(
    facts: Mapping[str, Any], draws: int, fits: Mapping[FitKey, Mapping[str, Any]]
) -> Draws:
    """MIoU of every draw by method and K, None where a fit is missing; groups with none left out.

    A method that learns nothing has one value, the same for every K.
    """
    scores: Draws = {}
    for method, shots in facts["groups"]:
        if METHODS[method].uses_support:
            keys = [FitKey(method, int(shots), number) for number in range(draws)]
        else:
            keys = [key for key in sorted(fits) if key.method == method][:1]
        values = [float(fits[key]["miou"]) if key in fits else None for key in keys]
        if any(value is not None for value in values):
            scores.setdefault(method, {})[int(shots)] = values
    return scores
