"""Ships pretrained weights: safetensors, a JSON card with their hash, and the model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ssprompt_core.data.domains import UPSTREAM
from ssprompt_core.models.shipped import DEFAULT_WEIGHTS
from ssprompt_core.pretrain.config import PretrainConfig
from ssprompt_core.pretrain.gates import Gate
from ssprompt_core.pretrain.vocabulary import COMMON, RARE

_WORDS = {
    "upstream_point_best_of_3_iou": "1 point in a thing, best of 3 masks, IoU, held-out scenes",
    "upstream_box_iou": "box around a thing, IoU, held-out scenes",
    "downstream_box_iou": "box around a thing, IoU, shifted data set",
    "downstream_probe_miou": "linear probe on frozen embeddings, K = 16, mIoU, shifted data set",
    "downstream_probe_worst_thing_iou": "the same probe, worst thing class, IoU",
}


def export(
    tensors: dict[str, Tensor],
    stages: Sequence[PretrainConfig],
    gates: Sequence[Gate],
    path: Path = DEFAULT_WEIGHTS,
    *,
    first: int = 1,
) -> None:
    """Write weights, card and model card beside each other, each under a temporary name first.

    Args:
        tensors: Names with the prefixes ``sam.`` and ``text.``.
        stages: That made them, in order.
        gates: As measured on exactly these weights.
        path: Of the safetensors file.
        first: Number of the stage that this run began with; those before it came with the weights.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    card = {
        "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
        "parameters": {
            part: sum(t.numel() for n, t in tensors.items() if n.startswith(f"{part}."))
            for part in ("sam", "text")
        },
        "pretraining": [asdict(stage) for stage in stages],
        "first_stage_run": first,
        "gates": {gate.name: round(gate.value, 4) for gate in gates},
    }
    _write(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    _write(path.parent / "MODEL_CARD.md", model_card(card, gates))
    temporary.replace(path)


def model_card(card: dict[str, Any], gates: Sequence[Gate]) -> str:
    """The card in Markdown."""
    rows = "\n".join(
        f"| {_WORDS[gate.name]} | {gate.value:.3f} | {gate.minimum:.2f} | "
        f"{'passed' if gate.passed else 'MISSED'} |"
        for gate in gates
    )
    named = ", ".join(sorted(COMMON))
    unnamed = ", ".join(sorted(set(UPSTREAM.class_names) - set(COMMON)))
    rare = ", ".join(f"{word} ({name})" for name, word in RARE.items())
    stages = "\n".join(
        f"| {s['world']} | {s['stop'] or s['steps']:,} of {s['steps']:,} "
        f"| {s['processes']} x {s['batch']} | {s['scenes']:,} ({s['data_seed']}) "
        f"| {s['lr']:g} | {s['geometry']} + {s['texts']} |"
        for s in card["pretraining"]
    )
    return f"""# Model card: the small SAM

A promptable segmentation model of segment-anything's own classes, small enough to ship: 96 x 96
images, 24 x 24 x 96 embeddings, stock prompt encoder and mask decoder, a text encoder of hashed
character n-grams whose embeddings are prompt tokens. Float32 safetensors,
{card["parameters"]["sam"]:,} parameters in the SAM and {card["parameters"]["text"]:,} in the text
encoder.

SHA-256 of `small_sam.safetensors`: `{card["sha256"]}`

## What it is for

Trying, testing and teaching few-shot prompt learning without a download. It knows procedural scenes
alone; for photographs use `vit_b`, `vit_l` or `vit_h`.

## Measured gates

| figure | measured | at least | |
|---|---|---|---|
{rows}

`make gates` measures the shipped file again.

## Training

`python jobs/pretrain_small_sam.py`, on two CPU cores; `small_sam.json` holds every setting.

| world | steps of the schedule | images a step | scenes (data seed) | lr | prompts an image |
|---|---|---|---|---|---|
{stages}

Each stage starts from the moving average of the one before and ends in its own. AdamW, warm-up,
cosine. Prompts in training: points and boxes, text as a token (alone or behind a grid of points),
and all classes in one pass.{_began(card["first_stage_run"])}

## What its text side knows

Named in training: {named}. Only ever asked for by meaningless codes: {unnamed}. Heard
seldom, as synonyms: {rare}. So it knows foreground names better than the rest, and the words of the
shifted data set little or not at all.

## Limits

Scenes have at most five things, no perspective and no photographs; what it scores says nothing
about a real SAM's level. It is meant for comparing methods, settings and numbers of labels.
"""


def _began(first: int) -> str:
    """What a reader must know of a run that did not begin with the first stage."""
    if first == 1:
        return ""
    return (
        f" The run began with stage {first} (`--stage {first}`), on\nweights that an earlier run, "
        "perhaps of an earlier form of the job, had made by the stages before:\nall stages in one "
        "go may give other figures."
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
