"""The one training loop: it fits any method to labelled embeddings and knows no platform."""

from __future__ import annotations

from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.loop import FitResult, GetCheckpoint, Loop, Report
from ssprompt_core.train.settings import FitSettings
from ssprompt_core.train.state import TrainState

__all__ = ["FitResult", "FitSettings", "LabelledEmbeddings", "Report", "fit"]


def no_report(metrics: dict[str, float], state: TrainState | None) -> None:
    """Report nowhere."""


def no_checkpoint() -> None:
    """Begin anew."""


def fit(
    model: FewShotModel,
    data: LabelledEmbeddings,
    settings: FitSettings,
    *,
    report: Report = no_report,
    get_checkpoint: GetCheckpoint = no_checkpoint,
) -> FitResult:
    """Train a model in place.

    Where ``torch.distributed`` is initialised, every rank takes its share of each batch and the
    gradients are joined: the result is that of one process up to rounding. All ranks must be given
    the same model, data and settings.

    A model without trained parameters sees the support images in its ``prepare`` alone and is
    ready then: no epoch, no report, loss 0.

    Args:
        model: Untrained; moved to the device.
        data: The support images.
        settings: How to train.
        report: Called after each epoch.
        get_checkpoint: Gives the state to go on from, or None. A resumed fit ends with the same
            bits as one that was never interrupted.

    Raises:
        UserError: A label has a class that the model lacks, or the checkpoint does not fit.
        ValueError: There are no images.
    """
    loop = Loop(model, data, settings, report, get_checkpoint)
    while loop.going:
        loop.begin_epoch()
        for _ in range(settings.steps_per_epoch):
            loop.count(loop.step())
        loop.end_epoch()
    return loop.result()
