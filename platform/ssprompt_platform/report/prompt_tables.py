"""Tables of what was learned: the weights of prompts and the class names they resemble."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ssprompt_core.analysis.names import name_similarity
from ssprompt_core.methods import METHODS
from ssprompt_platform.fit_files import prompts_path, record_path
from ssprompt_platform.plan import FitKey, Group, StudyPlan
from ssprompt_platform.storage import Place, child_names, write_text

Prompts = Mapping[str, Tensor]
"""Tensors of a fit as ``save_prompts`` names them."""

_NEAREST = 3


def read_prompts(plan: StudyPlan, fits: Place) -> dict[FitKey, Prompts]:
    """Prompts of each finished fit that has some, in the order of methods, K and draws."""
    order = {group: number for number, group in enumerate(plan.groups)}
    there = child_names(fits)
    done = [key for key in plan.fits if record_path(fits, key).name in there]
    keys = sorted(done, key=lambda key: (order[key.group], key.draw))
    read = {key: load(prompts_path(fits, key).read_bytes()) for key in keys}
    return {key: tensors for key, tensors in read.items() if "resolved.names" in tensors}


def weight_rows(
    prompts: Mapping[FitKey, Prompts], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The learned weight of every prompt: a row per fit, side and prompt.

    ``w`` is the share of the learned embedding, ``1 - w`` that of the frozen encoder. Where there
    is a weight per dimension, ``w`` is their mean and ``w_min`` and ``w_max`` are their range.
    Spatial prompts are numbered from 1, semantic ones have the name of their class.
    """
    rows = []
    for key, tensors in prompts.items():
        if "lr_weight" not in METHODS[key.method].hyperparameters:
            continue  # fixed weights are no finding
        for side in ("spatial", "semantic"):
            weight_NW = tensors.get(f"resolved.{side}_weight")
            if weight_NW is None:
                continue
            names = class_names if side == "semantic" else range(1, len(weight_NW) + 1)
            for name, weight_W in zip(names, weight_NW.double(), strict=True):
                rows.append(
                    {
                        "method": key.method,
                        "shots": key.shots,
                        "draw": key.draw,
                        "side": side,
                        "prompt": name,
                        "w": float(weight_W.mean()),
                        "w_min": float(weight_W.min()),
                        "w_max": float(weight_W.max()),
                    }
                )
    return rows


def weight_summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per method, K and side: mean and range over prompts and draws, and each prompt's mean."""
    groups: dict[tuple[str, int, str], dict[str | int, list[float]]] = {}
    for row in rows:
        of_prompt = groups.setdefault((row["method"], row["shots"], row["side"]), {})
        of_prompt.setdefault(row["prompt"], []).append(row["w"])
    summary = []
    for (method, shots, side), of_prompt in groups.items():
        values = [w for draws in of_prompt.values() for w in draws]
        summary.append(
            {
                "method": method,
                "shots": shots,
                "side": side,
                "mean": sum(values) / len(values),
                "min": min(values),
                "max": max(values),
                "prompts": list(of_prompt),
                "w": [sum(draws) / len(draws) for draws in of_prompt.values()],
            }
        )
    return summary


def name_rows(
    plan: StudyPlan, prompts: Mapping[FitKey, Prompts], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The class names that each learned semantic prompt resembles most: a row per group and class.

    ``nearest`` lists names by mean cosine over draws; ``own_first`` counts the draws in which the
    prompt is nearest to its own class's name.
    """
    rows = []
    for group in plan.groups:
        similarity_RCC = _similarities(group, prompts)
        if similarity_RCC is None:
            continue
        mean_CC = similarity_RCC.mean(0)
        first_RC = similarity_RCC.argmax(2)
        for c, name in enumerate(class_names):
            nearest = mean_CC[c].topk(min(_NEAREST, len(class_names))).indices.tolist()
            rows.append(
                {
                    "method": group.method,
                    "shots": group.shots,
                    "class": name,
                    "own_first": int((first_RC[:, c] == c).sum()),
                    "draws": len(first_RC),
                    "cosine_own": float(mean_CC[c, c]),
                    "nearest": [
                        {"name": class_names[i], "cosine": float(mean_CC[c, i])} for i in nearest
                    ],
                }
            )
    return rows


def _similarities(group: Group, prompts: Mapping[FitKey, Prompts]) -> Tensor | None:
    """Cosines of the group's learned prompts with all names, ``[draws, C, C]``, or None."""
    if not METHODS[group.method].uses_support:
        return None
    of_draws = []
    for key, tensors in prompts.items():
        if key.group == group:
            names_CD = tensors["resolved.names"].double()
            semantic_CD = tensors["resolved.semantic"].double()
            if torch.allclose(semantic_CD, names_CD):
                return None  # the names themselves: nothing was learned on this side
            of_draws.append(name_similarity(semantic_CD, names_CD))
    return torch.stack(of_draws) if of_draws else None


def flat_names(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """:func:`name_rows` with a column for each of the nearest names, for a CSV file."""
    flat = []
    for row in rows:
        columns = {name: value for name, value in row.items() if name != "nearest"}
        for rank, found in enumerate(row["nearest"], start=1):
            columns |= {f"name_{rank}": found["name"], f"cosine_{rank}": found["cosine"]}
        flat.append(columns)
    return flat


def write_csv(path: Place, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as a CSV file, whole or not at all; numbers to 6 digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_text(path, text.getvalue())
