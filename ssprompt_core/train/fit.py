"""The one training loop: it fits any method to labelled embeddings and knows no platform."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.metrics.iou import confusion_matrix, mean_iou
from ssprompt_core.train.data import LabelledEmbeddings, label_cells
from ssprompt_core.train.losses import BatchTotals, class_weights, segmentation_loss
from ssprompt_core.train.optimiser import Optimiser
from ssprompt_core.train.settings import DTYPES, FitSettings
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.stopping import BestEpoch

__all__ = ["FitResult", "FitSettings", "LabelledEmbeddings", "Report", "fit"]

_PAIR_CELLS = {"cpu": 2**13, "cuda": 2**20}
"""Cells times (image, class) pairs with gradient at once, where ``micro_batch`` is 0.

That bounds the memory (a pair of ViT-B's 4096 cells keeps about 60 MB) and changes no number but
by rounding. On the CPU small pieces are as fast as large ones, which leave the caches.
"""

Report = Callable[[dict[str, float], TrainState | None], None]
"""Takes the metrics of an epoch (``epoch`` from 1, ``loss``, ``lr``, and ``support_miou`` where
``patience`` is on) and the state to resume from, or None at epochs without checkpoint."""


@dataclass(frozen=True)
class FitResult:
    """What a fit came to.

    Attributes:
        loss: Mean loss of ``best_epoch``; not finite if the fit diverged and has no better epoch.
        epochs: Epochs done, those before a resumed checkpoint included.
        steps: Optimiser steps done, likewise.
        best_epoch: The epoch whose parameters the model has: the last one, or with ``patience``
            the one with the best score on the support images.
        stopped: Whether ``patience`` ended the fit before its last epoch.
    """

    loss: float
    epochs: int
    steps: int
    best_epoch: int
    stopped: bool


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
    get_checkpoint: Callable[[], TrainState | None] = no_checkpoint,
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
    loop = _Loop(model, data, settings)
    if not model.parameter_groups():
        return FitResult(loss=0.0, epochs=0, steps=0, best_epoch=0, stopped=False)
    optimiser = Optimiser(
        model,
        total_steps=settings.epochs * settings.steps_per_epoch,
        seed=settings.seed,
        warm_up=settings.warm_up,
        shape=settings.schedule,
        scaled=settings.precision == "fp16",
    )
    best = BestEpoch(model, settings.patience) if settings.patience else None
    state = get_checkpoint()
    if state is not None:
        optimiser.restore(state)
        if best:
            best.restore(state)
    stopped = best is not None and best.exhausted(optimiser.epoch)
    while optimiser.epoch < settings.epochs and not stopped:
        total = torch.zeros((), dtype=torch.float64, device=settings.device)
        rate = optimiser.rate
        for _ in range(settings.steps_per_epoch):
            total += loop.step(optimiser)
        optimiser.epoch += 1
        optimiser.loss = float(total) / settings.steps_per_epoch
        finite = math.isfinite(optimiser.loss)
        metrics = {"epoch": optimiser.epoch, "loss": optimiser.loss, "lr": rate}
        if best:
            metrics["support_miou"] = loop.support_miou() if finite else math.nan
            best.update(optimiser.epoch, optimiser.loss, metrics["support_miou"])
            stopped = finite and best.exhausted(optimiser.epoch)
        keep = settings.checkpoint_every and optimiser.epoch % settings.checkpoint_every == 0
        report(metrics, _state(optimiser, best) if keep and finite else None)
        if not finite:
            break  # diverged: further steps cannot mend it
    loss, best_epoch = optimiser.loss, optimiser.epoch
    if best and best.epoch:
        best.reinstate()
        loss, best_epoch = best.loss, best.epoch
    return FitResult(
        loss=loss,
        epochs=optimiser.epoch,
        steps=optimiser.step_count,
        best_epoch=best_epoch,
        stopped=stopped and optimiser.epoch < settings.epochs,
    )


def _state(optimiser: Optimiser, best: BestEpoch | None) -> TrainState:
    return TrainState(optimiser.state() | (best.state() if best else {}))


class _Loop:
    """Batches, losses and gradients of one fit."""

    def __init__(
        self, model: FewShotModel, data: LabelledEmbeddings, settings: FitSettings
    ) -> None:
        if not len(data.labels):
            raise ValueError("there are no images to fit")
        self._model = model.place(settings.device)
        self._data, self._settings = data, settings
        self._device = torch.device(settings.device)
        segmenter = model.segmenter
        self._labels_nS44 = label_cells(data.labels, segmenter, model.num_classes)
        # a cell that is padding or unlabelled in every image has nothing to teach
        labelled_S = (self._labels_nS44 != IGNORE).flatten(2).any(2).any(0)
        self._cells = labelled_S.nonzero()[:, 0]
        weight_C = class_weights(self._labels_nS44, model.num_classes, settings.class_balance)
        self._weight_C = weight_C if weight_C is None else weight_C.to(self._device)
        cells = model.passes * segmenter.grid_size**2
        usual = max(1, _PAIR_CELLS.get(self._device.type, 2**20) // cells)
        self._micro_batch = settings.micro_batch or usual
        self._parallel = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._rank = dist.get_rank() if self._parallel else 0
        self._ranks = dist.get_world_size() if self._parallel else 1
        model.prepare(data.embeddings, self._labels_nS44)

    def step(self, optimiser: Optimiser) -> Tensor:
        """One optimiser step; returns the loss of the whole batch."""
        images, cells_P = self._draw(optimiser.generator)
        labels_BX = self._labels_nS44[images][:, cells_P].flatten(1)
        totals = BatchTotals.of(labels_BX.to(self._device), self._model.num_classes)
        cells_P = cells_P.to(self._device)
        loss = torch.zeros((), device=self._device)
        optimiser.zero_grad()
        mine = slice(self._rank, None, self._ranks)
        for batch, labels in zip(
            torch.split(images[mine], self._micro_batch),
            torch.split(labels_BX[mine], self._micro_batch),
            strict=True,
        ):
            if len(batch):
                share = self._loss(batch, labels.to(self._device), cells_P, totals)
                optimiser.backward(share)
                loss += share.detach()
        penalty = self._model.penalty()
        if penalty is not None:
            optimiser.backward(penalty / self._ranks)
            loss += penalty.detach() / self._ranks
        if self._parallel:
            dist.all_reduce(loss)
            optimiser.sum_gradients()
        optimiser.step()
        return loss

    @torch.no_grad()
    def support_miou(self) -> float:
        """Mean IoU on all support images at the pixels of the logits; the same on all ranks."""
        num_classes = self._model.num_classes
        cells_P = self._cells.to(self._device)
        confusion_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self._device)
        images = torch.arange(len(self._data.labels))[self._rank :: self._ranks]
        for batch in torch.split(images, self._micro_batch):
            if len(batch):
                classes_BP44 = self._logits(batch, cells_P).argmax(1)
                labels_BP44 = self._labels_nS44[batch][:, self._cells].to(self._device)
                confusion_CC += confusion_matrix(classes_BP44, labels_BP44, num_classes)
        if self._parallel:
            dist.all_reduce(confusion_CC)
        return mean_iou(confusion_CC)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = torch.randperm(len(self._data.labels), generator=generator)
        count = self._settings.cells or len(self._cells)
        chosen = torch.randperm(len(self._cells), generator=generator)[:count]
        return images[: self._settings.batch_size], self._cells[chosen].sort().values

    def _logits(self, images: Tensor, cells_P: Tensor) -> Tensor:
        """Class logits ``[B, C, P, 4, 4]`` in the precision of the settings."""
        embeddings = self._data.embeddings[images].to(self._device, torch.float32)
        dtype = DTYPES[self._settings.precision]
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            return self._model.class_logits(embeddings, cells_P)

    def _loss(
        self, images: Tensor, labels_BX: Tensor, cells_P: Tensor, totals: BatchTotals
    ) -> Tensor:
        return segmentation_loss(
            self._logits(images, cells_P).flatten(2),
            labels_BX,
            totals,
            ce_weight=self._settings.ce_weight,
            dice_weight=self._settings.dice_weight,
            focal_weight=self._settings.focal_weight,
            focal_gamma=self._settings.focal_gamma,
            class_weight_C=self._weight_C,
        )
