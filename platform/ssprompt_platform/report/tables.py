"""What a study found: statistics over draws, the rows of ``results.json``."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ssprompt_core.methods import METHODS
from ssprompt_platform.plan import FitKey, Group
from ssprompt_platform.stats.intervals import bootstrap_interval, t_interval

_PACKAGES = (
    "ssprompt", "torch", "segment-anything", "ray", "optuna", "mlflow", "omegaconf", "numpy",
)  # fmt: skip


def mean_ci95(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and its 95 % confidence interval by Student's t; None for the interval of one value."""
    return float(np.mean(values)), t_interval(values)


def draws_of(group: Group, fits: Mapping[FitKey, dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of a group's finished fits in the order of draws; none where none is finished.

    A method that trains nothing has one record for all K: it is the same in every draw.
    """
    if METHODS[group.method].uses_support:
        return [fits[key] for key in sorted(fits) if key.group == group]
    return [fits[key] for key in sorted(fits) if key.method == group.method][:1]


def make_rows(
    groups: Sequence[Group],
    fits: Mapping[FitKey, dict[str, Any]],
    things: Collection[int],
    labelled: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row per method and K that has a finished fit.

    Args:
        groups: The study's table, in its order.
        fits: Records of its finished fits.
        things: Foreground classes; where there are none, ``things`` and ``stuff`` are None.
        labelled: Distinct labelled images that each K costs (keys as in JSON).
    """
    rows = []
    for group in groups:
        records = draws_of(group, fits)
        if not records:
            continue
        ious = [record["iou"] for record in records]
        stuff = frozenset(range(len(ious[0]))) - frozenset(things)
        values = [float(record["miou"]) for record in records]
        bootstrap = bootstrap_interval(values)
        deterministic = not METHODS[group.method].uses_support
        rows.append(
            {
                "method": group.method,
                "shots": group.shots,
                "metric": "miou",
                "split": "test",
                **_spread(values),
                "bootstrap95": list(bootstrap) if bootstrap else None,
                "draw_numbers": [record["draw"] for record in records],
                "deterministic": deterministic,
                "labelled": 0.0 if deterministic else labelled.get(str(group.shots)),
                "things": _spread(_means(ious, things)) if things else None,
                "stuff": _spread(_means(ious, stuff)) if things else None,
                "best": records[0]["hyperparameters"],
                "trainable_parameters": records[0]["trainable_parameters"],
                "support_images": [record["support_images"] for record in records],
            }
        )
    return rows


def make_per_class(
    groups: Sequence[Group],
    fits: Mapping[FitKey, dict[str, Any]],
    class_names: Sequence[str],
    things: Collection[int],
) -> list[dict[str, Any]]:
    """IoU per method, K and class: mean over the finished draws where the class occurs."""
    rows = []
    for group in groups:
        records = draws_of(group, fits)
        for c, name in enumerate(class_names if records else ()):
            values = [record["iou"][c] for record in records if record["iou"][c] is not None]
            rows.append(
                {
                    "method": group.method,
                    "shots": group.shots,
                    "class": name,
                    "thing": (c in things) if things else None,
                    **_spread(values),
                }
            )
    return rows


def _means(ious: Sequence[Sequence[float | None]], classes: Collection[int]) -> list[float]:
    """Mean IoU over some classes in each draw, where any of them occurs."""
    present = [[iou[c] for c in classes if iou[c] is not None] for iou in ious]
    return [float(np.mean(values)) for values in present if values]  # type: ignore[arg-type]


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, 95 % confidence interval and the values themselves; None where there is nothing."""
    mean, interval = mean_ci95(values) if values else (None, None)
    return {"mean": mean, "ci95": list(interval) if interval else None, "draws": list(values)}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # the job also runs from an uninstalled checkout
            found[name] = "not installed"
    return found
