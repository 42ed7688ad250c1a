"""Which method, and whether more shots help: paired comparisons on the same support draws.

All methods and all K of a study share their draws: draw r of every method sees the same support
images, and those of K are among those of the next K. Differences within a draw are therefore
steadier than the scores, and they are what is tested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssprompt_platform.stats.paired import Paired, holm, pair
from ssprompt_platform.stats.words import chance, count, share, span

Scores = Mapping[str, Mapping[int, Sequence[float | None]]]
"""Method -> K -> score of every draw, in the order of draws; None or NaN: the draw is missing."""


def compare_methods(
    draws: Scores, *, deterministic: Collection[str], baseline: str | None = None
) -> list[dict[str, Any]]:
    """Every pair of methods at every K that both have, on the same draws.

    ``ci95`` is of the comparison alone; ``p_holm`` and ``significant`` allow for all tests of the
    list, the family ``methods``. Where no test can be made (fewer than two common draws, the same
    difference in every draw, two methods that learn nothing) ``p`` and ``p_holm`` are None.

    Args:
        draws: Scores in [0, 1], all sequences in the same order of draws. A method of
            ``deterministic`` has one value for each K, which is compared with every draw.
        deterministic: Methods that learn nothing from the support images.
        baseline: Compare every other method with this one only, which is then ``second``.

    Returns:
        For each K in turn and each pair in the order of ``draws``: ``shots``, ``first``,
        ``second``, ``difference`` (mean of first - second, or None), ``ci95`` (list or None),
        ``p``, ``p_holm``, ``n`` (pairs), ``significant``, ``family``, ``family_size`` (tests
        made) and ``statement``, a sentence.

    Raises:
        ValueError: ``baseline`` is no method of ``draws``, a score is infinite, or a
            deterministic method has several.
    """
    if baseline is not None and baseline not in draws:
        raise ValueError(f"baseline is {baseline!r}: it must be one of {', '.join(draws)}")
    sides: list[tuple[str, str]] = list(combinations(draws, 2))
    if baseline is not None:
        sides = [(method, baseline) for method in draws if method != baseline]
    arrays = _arrays(draws, deterministic)
    found = []
    for k in sorted({k for scores in draws.values() for k in scores}):
        for first, second in sides:
            if k in draws[first] and k in draws[second]:
                labels = {"shots": k, "first": first, "second": second}
                paired = pair(arrays[first][k], arrays[second][k])
                if {first, second} <= set(deterministic):
                    why = "both learn nothing from the support images, so nothing varies"
                    paired = Paired(min(paired.n, 1), paired.mean, None, None, why)
                found.append((labels, paired))
    return [
        {**row, "statement": _methods_sentence(row, why)}
        for row, why in _corrected(found, "methods")
    ]


def compare_shots(
    draws: Scores,
    *,
    deterministic: Collection[str],
    labelled: Mapping[int, float] | None = None,
) -> list[dict[str, Any]]:
    """Every method at K against itself at the next K, on the same (nested) draws.

    Tests and corrects as :func:`compare_methods` does, in a family of its own.

    Args:
        draws: As in :func:`compare_methods`.
        deterministic: Methods that learn nothing from the support images; they are left out.
        labelled: Distinct labelled images that each K costs, where that is known.

    Returns:
        For each method and each K but its last: ``method``, ``shots``, ``next``, ``difference``
        (mean of next - this), ``ci95``, ``p``, ``p_holm``, ``n``, ``significant``, ``family``
        (``shots``), ``family_size``, ``labels_more`` (images), ``gain_per_label`` (mIoU per
        further image; both None where ``labelled`` does not say) and ``statement``.

    Raises:
        ValueError: A score is infinite.
    """
    found = []
    for method, scores in _arrays(draws, deterministic).items():
        if method not in deterministic:
            for k, following in pairwise(sorted(scores)):
                labels = {"method": method, "shots": k, "next": following}
                found.append((labels, pair(scores[following], scores[k])))
    rows = []
    for row, why in _corrected(found, "shots"):
        ends = [(labelled or {}).get(row[end]) for end in ("next", "shots")]
        more = ends[0] - ends[1] if ends[0] is not None and ends[1] is not None else None
        gain = row["difference"] / more if more and row["difference"] is not None else None
        row |= {"labels_more": more, "gain_per_label": gain}
        rows.append({**row, "statement": _shots_sentence(row, why)})
    return rows


def _arrays(
    draws: Scores, deterministic: Collection[str]
) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Scores ``[R]``: NaN where a draw is missing, one value for all where nothing is learnt."""
    length = max((len(v) for scores in draws.values() for v in scores.values()), default=0)
    arrays: dict[str, dict[int, NDArray[np.float64]]] = {}
    for method, scores in draws.items():
        arrays[method] = {}
        for k, values in scores.items():
            array = np.full(length, np.nan)
            array[: len(values)] = [np.nan if v is None else v for v in values]
            if np.isinf(array).any():
                raise ValueError(f"scores of {method} at K = {k} are {values!r}: not finite")
            if method in deterministic:
                if len(values) > 1:
                    raise ValueError(f"{method} learns nothing but has {len(values)} scores")
                array[:] = array[:1]
            arrays[method][k] = array
    return arrays


def _corrected(
    found: Sequence[tuple[dict[str, Any], Paired]], family: str
) -> list[tuple[dict[str, Any], str]]:
    """Rows with Holm's correction over the family, each with why it has no test."""
    size, corrected = holm([paired.p for _, paired in found])
    return [
        (
            {**labels, **paired.to_dict(p_holm, size), "family": family},
            paired.why,
        )
        for (labels, paired), p_holm in zip(found, corrected, strict=True)
    ]


def _methods_sentence(row: Mapping[str, Any], why: str) -> str:
    first, second, at = row["first"], row["second"], f"at K = {row['shots']}"
    if row["p"] is None:
        seen = "" if row["difference"] is None else f" (mean difference {_size(row)})"
        return f"no test of {first} against {second} {at}: {why}{seen}"
    if not row["significant"]:
        between = f"between {first} and {second} {at}"
        return f"no difference can be told {between}: {_size(row)} {_test(row)}"
    if row["difference"] < 0:
        first, second = second, first
    return f"{first} is better than {second} {at} by {_size(row, upright=True)} {_test(row)}"


def _shots_sentence(row: Mapping[str, Any], why: str) -> str:
    method, step = row["method"], f"from K = {row['shots']} to K = {row['next']}"
    if row["p"] is None:
        seen = "" if row["difference"] is None else f" (mean gain {_size(row)})"
        return f"no test of {method} {step}: {why}{seen}"
    if not row["significant"]:
        return f"no gain of {method} can be told {step}: {_size(row)} {_test(row)}"
    if row["difference"] < 0:
        return f"{method} loses {_size(row, upright=True)} {step} {_test(row)}"
    text = f"{method} gains {_size(row)} {step} {_test(row)}"
    if row["labels_more"] is not None and row["labels_more"] > 0:
        each = share(row["gain_per_label"], 4)
        text += f": {each} for each of {row['labels_more']:.0f} further labelled images"
    return text


def _test(row: Mapping[str, Any]) -> str:
    """How it was tested; where the interval alone would say otherwise, why it does not count."""
    family = f"after Holm for {count(row['family_size'], 'comparison')}"
    alone = ""
    if not row["significant"] and row["ci95"][0] * row["ci95"][1] > 0:
        alone = "; the interval is of this comparison alone"
    return f"(paired t-test over {row['n']} draws, {chance(row['p_holm'])} {family}{alone})"


def _size(row: Mapping[str, Any], upright: bool = False) -> str:
    """Difference and interval; ``upright`` turns a negative difference round."""
    value, interval = row["difference"], row["ci95"]
    if upright and value < 0:
        value, interval = -value, [-interval[1], -interval[0]]
    return share(value) if interval is None else f"{share(value)} {span(interval)}"
