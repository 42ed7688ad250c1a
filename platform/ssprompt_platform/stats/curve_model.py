"""A fitted learning curve and what it answers: how good with K labels, how many for a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ssprompt_core.errors import UserError
from ssprompt_platform.stats.intervals import Interval
from ssprompt_platform.stats.powerlaw import Floats
from ssprompt_platform.stats.words import share, span

REACH = 2
"""A curve answers up to this many times the largest K that was measured."""
_TAILS = (0.025, 0.975)
LEAST_SHOTS = 3
"""Values of K that a curve needs: it has three parameters."""


@dataclass(frozen=True)
class Answer:
    """How many labels a score takes.

    Attributes:
        target: mIoU that was asked for.
        status: ``answered``; ``met``: at the smallest K measured already; or why there is no K:
            ``beyond_reach``, ``never`` (the curve levels off below) or ``flat`` (no growth).
        shots: Smallest K whose fitted score reaches the target; None unless answered or met.
        ci95: Its 95 % interval, whole K; an upper end of None lies beyond the curve's reach.
        labelled: Distinct labelled images at ``shots``, about; None where that is not known.
        statement: The same as a sentence.
    """

    target: float
    status: Literal["answered", "met", "beyond_reach", "never", "flat"]
    shots: int | None
    ci95: tuple[int, int | None] | None
    labelled: float | None
    statement: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "ci95": list(self.ci95) if self.ci95 else None}


@dataclass(frozen=True)
class Curve:
    """mIoU(K) = a - b * K**-c, with its uncertainty over support draws.

    Attributes:
        a: Where the curve levels off, in [0, 1].
        b: At least 0; 0: the scores do not grow with K, and ``c`` means nothing.
        c: How fast it levels off, in [0.05, 3].
        shots: K that were measured, increasing.
        means: Mean mIoU at each, over the draws that were used.
        draws: Number of draws that were used.
        labelled: Distinct labelled images that each K costs, as far as known.
        misses: K whose own t-interval the curve lies outside of: the form does not hold there.
        resampled: a, b and c ``[B, 3]`` of resampled draws.
    """

    a: float
    b: float
    c: float
    shots: tuple[int, ...]
    means: tuple[float, ...]
    draws: int
    labelled: Mapping[int, float]
    misses: tuple[int, ...]
    resampled: Floats = field(repr=False, compare=False)

    @property
    def reach(self) -> int:
        """Largest K that the curve answers for."""
        return REACH * self.shots[-1]

    @property
    def rise(self) -> tuple[float, float, float]:
        """Gain from the smallest to the largest K that was measured: fitted, lower, upper end."""
        return self._gain(self.shots[0], self.shots[-1])

    @property
    def growth(self) -> Literal["grows", "unsure", "none"]:
        """Whether mIoU grows with K; ``unsure``: more than 2.5 % of the resamples do not."""
        if self.b == 0:
            return "none"
        return "grows" if self.rise[1] > 0 else "unsure"

    def predict(self, shots: float) -> tuple[float, float, float]:
        """Fitted mean mIoU at K, and its 95 % interval over support draws, all in [0, 1].

        Raises:
            UserError: K is below the smallest measured or beyond :attr:`reach`.
        """
        if not self.shots[0] <= shots <= self.reach:
            raise UserError(
                f"K = {shots:g} lies outside of what the curve answers for: "
                f"from {self.shots[0]} to {self.reach}, twice the largest K measured"
            )
        value, values = (np.clip(_value(p, shots), 0.0, 1.0) for p in self._parameters)
        return _with_band(float(value[0]), values)

    def labels_for(self, target: float) -> Answer:
        """Smallest K whose fitted mean mIoU reaches the target.

        Raises:
            UserError: The target does not lie between 0 and 1.
        """
        if not 0 < target <= 1:
            raise UserError(f"target is {target:g}: an mIoU above 0 and at most 1 is asked for")
        first, text = self.shots[0], f"{share(target)} mIoU"
        at_first, *band = self.predict(first)
        if at_first >= target:
            return self._answer(
                target,
                "met",
                first,
                f"{text} is met at K = {first}, the smallest K measured: {share(at_first)} "
                f"{span(band)}",
            )
        if self.b == 0:
            text += f" is not reached: the scores do not grow with K (mean {share(self.a)})"
            return Answer(target, "flat", None, None, None, text)
        estimate = float(self._shots_for(self._parameters[0], target)[0])
        if math.isinf(estimate):
            level = f"{share(self.a)} {span(self._interval(0))}"
            text += f" is not reached at any K: the fitted curve levels off at {level}"
            return Answer(target, "never", None, None, None, text)
        if _up(estimate) > self.reach:
            text += (
                f" would need more than {self.reach} labelled images a class, beyond twice the "
                f"largest K measured ({self.shots[-1]}): not answered"
            )
            return Answer(target, "beyond_reach", None, None, None, text)
        shots = _up(estimate)
        low, high = self.shots_interval(target)
        ends = (min(shots, _up(low)), max(shots, _up(high)) if high <= self.reach else None)
        upper = f"more than {self.reach}" if ends[1] is None else str(ends[1])
        text += f" needs K = {shots} (95 % interval {ends[0]} to {upper})"
        if shots > self.shots[-1]:
            text += f", extrapolated beyond K = {self.shots[-1]}"
        return self._answer(target, "answered", shots, text, ends)

    def shots_interval(self, target: float) -> Interval:
        """95 % interval of the K that a score takes, as real numbers.

        An end at the smallest K measured means that or fewer; an infinite one, that the score may
        never be reached.
        """
        needed = self._shots_for(self.resampled, target)
        # no mean of two neighbours: one of them may be infinite
        low, high = np.quantile(needed, _TAILS, method="inverted_cdf")
        return float(low), float(high)

    def worth(self) -> list[dict[str, Any]]:
        """What one more shot of each class brings at every K measured.

        Returns:
            For each: ``shots``, ``gain`` (mIoU from K to K + 1 on the curve), ``ci95``,
            ``labels_more`` (further distinct images, interpolated) and ``gain_per_label``; both
            None where the images are not known.
        """
        rows = []
        for k in self.shots:
            gain, low, high = self._gain(k, k + 1)
            here, there = self.labels_at(k), self.labels_at(k + 1)
            more = there - here if here is not None and there is not None else None
            each = gain / more if more is not None and more > 0 else None
            rows.append(
                {
                    "shots": k,
                    "gain": gain,
                    "ci95": [low, high],
                    "labels_more": more,
                    "gain_per_label": each,
                }
            )
        return rows

    def labels_at(self, shots: float) -> float | None:
        """Distinct labelled images at K: between the measured K and beyond them on straight lines.

        None below the smallest K whose images are known, or where fewer than two are known.
        """
        known = sorted(self.labelled)
        if len(known) < 2 or shots < known[0]:
            return None
        if shots <= known[-1]:
            return float(np.interp(shots, known, [self.labelled[k] for k in known]))
        before, last = known[-2:]
        slope = (self.labelled[last] - self.labelled[before]) / (last - before)
        return self.labelled[last] + slope * (shots - last)

    def statement(self) -> str:
        """The curve in words: its form, where it levels off and what speaks against it."""
        measured = f"{self.draws} draws at K = {', '.join(map(str, self.shots))}"
        if self.b == 0:
            return f"mIoU does not grow with K: {share(self.a)} on the whole ({measured})"
        text = (
            f"mIoU(K) = {share(self.a)} - {share(self.b)} K^-{share(self.c, 2)} over {measured}; "
            f"levels off at {share(self.a)} {span(self._interval(0))}"
        )
        if self.growth == "unsure":
            text += "; that it grows with K at all cannot be told from these draws"
        if self.misses:
            missed = ", ".join(map(str, self.misses))
            text += f"; it lies outside of the interval measured at K = {missed}"
        if len(self.shots) == LEAST_SHOTS:
            text += "; three values of K leave nothing to check its form by"
        return text

    def to_dict(self, targets: Sequence[float] = ()) -> dict[str, Any]:
        """For JSON: parameters, the band at whole K up to the reach, worth and answers.

        Args:
            targets: mIoU to answer ``labels_for``.
        """
        return {
            "a": self.a,
            "b": self.b,
            "c": self.c,
            "ci95": {name: list(self._interval(i)) for i, name in enumerate("abc")},
            "shots": list(self.shots),
            "means": list(self.means),
            "draws": self.draws,
            "reach": self.reach,
            "growth": self.growth,
            "rise": self.rise[0],
            "rise_ci95": list(self.rise[1:]),
            "misses": list(self.misses),
            "band": self._band(),
            "worth": self.worth(),
            "answers": [self.labels_for(target).to_dict() for target in targets],
            "statement": self.statement(),
        }

    def _band(self, most: int = 60) -> list[dict[str, Any]]:
        spaced = np.geomspace(self.shots[0], self.reach, most).round().astype(int)
        rows = []
        for k in sorted({*spaced.tolist(), *self.shots, self.reach}):
            mean, low, high = self.predict(k)
            rows.append(
                {
                    "shots": k,
                    "mean": mean,
                    "ci95": [low, high],
                    "labelled": self.labels_at(k),
                    "extrapolated": k > self.shots[-1],
                }
            )
        return rows

    @property
    def _parameters(self) -> tuple[Floats, Floats]:
        """The fit ``[1, 3]`` and its resamples ``[B, 3]``."""
        return np.array([[self.a, self.b, self.c]]), self.resampled

    def _interval(self, parameter: int) -> Interval:
        value = (self.a, self.b, self.c)[parameter]
        return _with_band(value, self.resampled[:, parameter])[1:]

    def _gain(self, start: float, end: float) -> tuple[float, float, float]:
        value, values = (_value(p, end) - _value(p, start) for p in self._parameters)
        return _with_band(float(value[0]), values)

    def _shots_for(self, parameters: Floats, target: float) -> Floats:
        """K (a real number) of each curve; the smallest measured where met, infinite if never."""
        a, b, c = parameters.T
        with np.errstate(all="ignore"):  # of curves that never reach it, set below
            needed = (b / np.maximum(a - target, 0.0)) ** (1 / c)
        met = _value(parameters, self.shots[0]) >= target
        needed = np.where(a > target, needed, np.inf)
        return np.where(met, float(self.shots[0]), needed)

    def _answer(
        self,
        target: float,
        status: Literal["answered", "met"],
        shots: int,
        text: str,
        ends: tuple[int, int | None] | None = None,
    ) -> Answer:
        images = self.labels_at(shots)
        if images is not None:
            text += f", about {images:.0f} labelled images"
        return Answer(target, status, shots, ends, images, text)


def _value(parameters: Floats, shots: float) -> Floats:
    """Scores ``[B]`` of curves ``[B, 3]`` at K."""
    a, b, c = parameters.T
    value: Floats = a - b * float(shots) ** -c
    return value


def _with_band(value: float, values: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(values, _TAILS)
    return value, min(value, float(low)), max(value, float(high))


def _up(shots: float) -> int:
    """Next whole K; what is whole but for rounding stays."""
    return math.ceil(shots - 1e-6)
