"""What ``results.json`` holds of a study that its folder alone can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssprompt_core.methods import METHODS
from ssprompt_platform.report.gather import StudyData
from ssprompt_platform.search.space import FIT_HYPERPARAMETERS

SCHEMA = 2
"""Version of ``results.json``."""


def results_of(data: StudyData) -> dict[str, Any]:
    """The part of ``results.json`` that needs neither data nor model, of any stage of a study."""
    return {
        "schema": SCHEMA,
        "study": _study(data),
        "rows": data.rows,
        "per_class": data.per_class,
        "statistics": data.statistics,
        "search": data.search,
        "front": data.front,
        "failed": data.failed,
        "missing": data.missing,
    }


def _study(data: StudyData) -> dict[str, Any]:
    """What ``results.json`` says of the study itself, from its folder alone."""
    config, facts = data.config, data.facts
    return {
        "id": data.id,
        "name": config["study"]["name"],
        "methods": list(config["study"]["methods"]),
        "shots": sorted(config["study"]["shots"]),
        "draws": config["study"]["draws"],
        "seed": config["study"]["seed"],
        "mode": config["study"]["mode"],
        "selection": config["study"]["selection"],
        "trials": config["search"]["trials"],
        "searched": _searched(config["search"]["space"], facts["searched"]),
        "protocol": list(data.protocol),
        "remarks": list(data.remarks),
        "finished": data.finished,
        "extensions": data.record.get("extensions", []),
        **{
            name: facts[name]
            for name in ("data", "classes", "train_pool", "test_images", "labelled", "model",
                         "text_encoder")
        },
        "fingerprints": data.record["fingerprints"],
    }  # fmt: skip


def _searched(
    space: Mapping[str, Mapping[str, Any] | None], groups: Iterable[Sequence[Any]]
) -> dict[str, list[str]]:
    """The hyperparameters of each searched method that the space lets vary."""
    varied = []
    for name, given in space.items():
        if given is not None:
            ends = given["choices"] or (given["low"], given["high"])
            varied += [name] if len(set(ends)) > 1 else []
    return {
        method: [n for n in varied if n in (*METHODS[method].hyperparameters, *FIT_HYPERPARAMETERS)]
        for method, _ in groups
    }
