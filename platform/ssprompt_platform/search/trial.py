"""One search trial: fit on a few support draws, score on the selection images, report."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssprompt_core.data.support import SupportDraw
from ssprompt_core.methods import FewShotModel
from ssprompt_core.train.state import TrainState
from ssprompt_platform.bench import Bench
from ssprompt_platform.plan import Group, derive_seed
from ssprompt_platform.scoring import score

PROGRESS_FILE = "progress.json"
STATE_FILE = "state.safetensors"

Report = Callable[[dict[str, Any], Path | None], None]
"""Takes metrics and the folder of a checkpoint, or None where there is none."""


@dataclass(frozen=True)
class TrialBench:
    """A bench and what all trials of a study have in common.

    Attributes:
        bench: Data without test labels, embeddings and model.
        draws: The support draws that a trial is scored on.
        search_ids: For each (draw number, K), the images to score on.
        seed: Seed of the study: equal draws start every trial from equal numbers.
        epochs: Epochs of a fit.
    """

    bench: Bench
    draws: tuple[SupportDraw, ...]
    search_ids: dict[tuple[int, int], tuple[str, ...]]
    seed: int
    epochs: int


def run_draws(
    tools: TrialBench,
    group: Group,
    hyperparameters: Mapping[str, Any],
    report: Report,
    checkpoint: Path | None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Fit and score one setting draw by draw, from a checkpoint where there is one.

    Every report carries ``epoch``, counted over all draws and never restarting; the last one of
    a draw carries ``miou``, the mean over the draws so far. A diverged fit reports NaN and ends.
    """
    scores, state = _load(checkpoint)
    for number in range(len(scores), len(tools.draws)):
        model, loss = _fit_draw(tools, group, hyperparameters, number, report, scores, state)
        state = None
        epoch = (number + 1) * tools.epochs
        if not math.isfinite(loss):
            report({"epoch": epoch, "loss": loss, "miou": math.nan}, None)
            return
        ids = tools.search_ids[number, group.shots]
        scores.append(score(tools.bench, model, ids, rank=rank, world_size=world_size).miou)
        mean = sum(scores) / len(scores)
        _report(report, {"epoch": epoch, "miou": mean, "draws": len(scores)}, scores, None)


def _fit_draw(
    tools: TrialBench,
    group: Group,
    hyperparameters: Mapping[str, Any],
    number: int,
    report: Report,
    scores: list[float],
    state: TrainState | None,
) -> tuple[FewShotModel, float]:
    """Fit one support draw, from a state where there is one; return the model and its loss."""
    bench, seed = tools.bench, derive_seed(tools.seed, group.shots, number)

    def on_epoch(metrics: dict[str, float], reached: TrainState | None) -> None:
        epoch = number * tools.epochs + int(metrics["epoch"])
        _report(report, {"epoch": epoch, "loss": float(metrics["loss"])}, scores, reached)

    model = bench.model(group, hyperparameters, seed)
    result = bench.fit(
        model,
        tools.draws[number].support[group.shots],
        epochs=tools.epochs,
        seed=seed,
        checkpoint_every=bench.train.checkpoint_every,
        report=on_epoch,
        get_checkpoint=lambda: state,
    )
    return model, result.loss


def _report(
    report: Report, values: dict[str, Any], scores: list[float], state: TrainState | None
) -> None:
    """Report values, with a checkpoint where a fit gives its state or a draw is done."""
    if state is None and "miou" not in values:
        report(values, None)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / PROGRESS_FILE).write_text(json.dumps({"scores": scores}))
        if state is not None:
            state.save(folder / STATE_FILE)
        report(values, folder)


def _load(checkpoint: Path | None) -> tuple[list[float], TrainState | None]:
    if checkpoint is None:
        return [], None
    scores: list[float] = json.loads((checkpoint / PROGRESS_FILE).read_text())["scores"]
    path = checkpoint / STATE_FILE
    return scores, TrainState.load(path) if path.is_file() else None
