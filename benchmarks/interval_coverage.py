"""Coverage of the intervals on simulated draws: the tables of docs/statistics.md.

python benchmarks/interval_coverage.py        # about four minutes of one core
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from ssprompt_platform.stats.compare import compare_methods
from ssprompt_platform.stats.curve import Curve, fit_curve
from ssprompt_platform.stats.intervals import Interval, bootstrap_interval, t_interval
from ssprompt_platform.stats.powerlaw import fit_power_law, spread_weights

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

SCORES: dict[str, tuple[float, Draw]] = {
    "normal, sd .03": (0.6, lambda rng, size: rng.normal(0.6, 0.03, size)),
    "Beta(30, 20), mean .60": (0.6, lambda rng, size: rng.beta(30, 20, size)),
    "Beta(40, 8), mean .83": (40 / 48, lambda rng, size: rng.beta(40, 8, size)),
    "Beta(18, 2), mean .90": (0.9, lambda rng, size: rng.beta(18, 2, size)),
    "Beta(1, 9), mean .10": (0.1, lambda rng, size: rng.beta(1, 9, size)),
}
CURVES = {"slow": (0.9, 0.6, 0.25), "usual": (0.75, 0.35, 0.6), "quick": (0.6, 0.2, 1.5)}
SHOTS = (1, 2, 4, 8, 16)


def normal_interval(values: Sequence[float]) -> Interval:
    """The interval that is often printed: 1.96 standard errors, however few the draws."""
    mean, half = np.mean(values), 1.96 * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(mean - half), float(mean + half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4000, help="simulated studies per cell")
    studies = parser.parse_args().studies
    console = Console(width=120)
    console.print(intervals(studies), families(studies // 4), curves(studies // 8))


def intervals(studies: int) -> Table:
    """Share of 95 % intervals that hold the true mean."""
    table = Table(
        "scores", "n", "1.96 sd / sqrt(n)", "bootstrap (BCa)", "Student's t", box=MARKDOWN
    )
    for name, (mean, draw) in SCORES.items():
        for n in (3, 5, 10):
            rows = draw(np.random.default_rng(n), (studies, n))
            cells = []
            for interval in (normal_interval, bootstrap_interval, t_interval):
                ends = np.array([interval(row.tolist()) for row in rows])
                cells.append(f"{np.mean((ends[:, 0] <= mean) & (mean <= ends[:, 1])):.1%}")
            table.add_row(name, str(n), *cells)
    return table


def families(studies: int) -> Table:
    """Share of studies with at least one false difference: 4 equal methods at 3 values of K."""
    table = Table("5 draws, 18 comparisons", "a false difference somewhere", box=MARKDOWN)
    rng = np.random.default_rng(0)
    found = np.zeros((studies, 2), bool)
    for study in range(studies):
        scores = 0.6 + rng.normal(0, 0.03, (1, 3, 5)) + rng.normal(0, 0.015, (4, 3, 5))
        draws = {f"m{m}": dict(zip(SHOTS, scores[m].tolist(), strict=False)) for m in range(4)}
        rows = compare_methods(draws, deterministic=())
        found[study] = any(r["p"] < 0.05 for r in rows), any(r["significant"] for r in rows)
    for name, share in zip(("p < .05", "p < .05 after Holm"), found.mean(axis=0), strict=True):
        table.add_row(name, f"{share:.1%}")
    return table


def curves(studies: int) -> Table:
    """Share of 95 % intervals of a curve that hold the truth, 5 draws at five values of K."""
    columns = ("K = 1", "K = 16", "K = 32", "asymptote", "K for a score")
    table = Table("curve", "draws across K", "resampled by", *columns, box=MARKDOWN)
    for name, truth in CURVES.items():
        for kind, common in (("independent", 0.0), ("nested (.7 shared)", 0.7)):
            held: dict[str, list[list[bool]]] = {"weights": [], "picking": []}
            for seed in range(studies):
                draws = _planted(*truth, common, seed)
                curve = fit_curve(draws, seed=seed, resamples=500)
                assert isinstance(curve, Curve)
                held["weights"].append(_holds(curve, truth))
                held["picking"].append(_holds(_picked(curve, draws, seed), truth))
            for way, shares in held.items():
                table.add_row(name, kind, way, *(f"{s:.1%}" for s in np.mean(shares, axis=0)))
    return table


def _planted(a: float, b: float, c: float, common: float, seed: int) -> dict[int, list[float]]:
    """Scores of 5 draws; ``common`` is the share of a draw's variance that all K have together."""
    rng = np.random.default_rng(seed)
    noise = math.sqrt(common) * rng.standard_normal((1, 5))
    return {
        k: np.clip(
            a - b * k**-c
            + 0.03 * k**-0.25 * (noise + math.sqrt(1 - common) * rng.standard_normal((1, 5))),
            0, 1,
        )[0].tolist()
        for k in SHOTS
    }  # fmt: skip


def _picked(curve: Curve, draws: dict[int, list[float]], seed: int) -> Curve:
    """The same curve with the usual bootstrap: draws picked with replacement, jointly across K."""
    table = np.array(list(draws.values())).T
    picks = np.random.default_rng(seed).integers(0, len(table), (500, len(table)))
    shots = np.array(SHOTS, np.float64)
    resampled = fit_power_law(shots, table[picks].mean(axis=1), spread_weights(table))
    return replace(curve, resampled=resampled)


def _holds(curve: Curve, truth: tuple[float, float, float]) -> list[bool]:
    a, b, c = truth
    ends = [(a - b * k**-c, curve.predict(k)[1:]) for k in (1, 16, 32)]
    ends.append((a, tuple(curve.to_dict()["ci95"]["a"])))
    ends.append((12, curve.shots_interval(a - b * 12**-c)))
    return [low <= true <= high for true, (low, high) in ends]


if __name__ == "__main__":
    main()
