"""The one training loop: it fits any method to labelled embeddings and knows no platform."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.train.data import LabelledEmbeddings, label_cells
from ssprompt_core.train.losses import BatchTotals, segmentation_loss
from ssprompt_core.train.optimiser import Optimiser
from ssprompt_core.train.state import TrainState

__all__ = ["FitResult", "FitSettings", "LabelledEmbeddings", "Report", "fit"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_PAIR_CELLS = {"cpu": 2**13, "cuda": 2**20}
"""Cells times (image, class) pairs with gradient at once: a batch beyond is cut into micro-batches.

That bounds the memory (a pair of ViT-B's 4096 cells keeps about 60 MB) and changes no number but
by rounding. On the CPU small pieces are as fast as large ones, which leave the caches.
"""

Report = Callable[[dict[str, float], TrainState | None], None]
"""Takes the metrics of an epoch (``epoch`` from 1, ``loss``, ``lr``) and the state to resume from,
or None at epochs without checkpoint."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a model is trained, whatever the method.

    Attributes:
        epochs: Number of epochs; after each, values are reported.
        steps_per_epoch: Optimiser steps an epoch.
        batch_size: Images a step; all of them if there are fewer.
        cells: Embedding cells sampled a step (the same ones of each image); 0 means all.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of dice.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16`` (the latter on a GPU only).
        device: ``cpu`` or ``cuda``.
        seed: Of batches and cells.
        checkpoint_every: Epochs between checkpoints; 0 means none.

    Raises:
        UserError: A value is out of range, or the precision is unknown or not available.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int = 8
    cells: int = 64
    ce_weight: float = 1.0
    dice_weight: float = 1.0
    precision: str = "fp32"
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("cells", "ce_weight", "dice_weight", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must not be negative")
        if self.precision not in _DTYPES:
            raise UserError(
                f"precision is '{self.precision}', but must be one of {', '.join(_DTYPES)}"
            )
        if self.precision == "fp16" and not self.device.startswith("cuda"):
            raise UserError(
                f"precision is fp16, which needs a GPU, but the device is {self.device}"
            )


@dataclass(frozen=True)
class FitResult:
    """What a fit came to.

    Attributes:
        loss: Mean loss of the last epoch; not finite if the fit diverged and was ended there.
        epochs: Epochs done, those before a resumed checkpoint included.
        steps: Optimiser steps done, likewise.
    """

    loss: float
    epochs: int
    steps: int


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

    Args:
        model: Untrained; moved to the device.
        data: The support images.
        settings: How to train.
        report: Called after each epoch.
        get_checkpoint: Gives the state to go on from, or None. A resumed fit ends with the same
            bits as one that was never interrupted.

    Raises:
        UserError: A label has a class that the model lacks, or the checkpoint does not fit.
        ValueError: The model has nothing to train, or there are no images.
    """
    loop = _Loop(model, data, settings)
    state = get_checkpoint()
    if state is not None:
        loop.optimiser.restore(state)
    optimiser, loss = loop.optimiser, math.nan
    while optimiser.epoch < settings.epochs:
        total = torch.zeros((), dtype=torch.float64, device=settings.device)
        rate = optimiser.rate
        for _ in range(settings.steps_per_epoch):
            total += loop.step()
        optimiser.epoch += 1
        loss = float(total) / settings.steps_per_epoch
        every = settings.checkpoint_every
        keep = every > 0 and optimiser.epoch % every == 0 and math.isfinite(loss)
        report(
            {"epoch": optimiser.epoch, "loss": loss, "lr": rate},
            optimiser.state() if keep else None,
        )
        if not math.isfinite(loss):
            break  # diverged: further steps cannot mend it
    return FitResult(loss, optimiser.epoch, optimiser.step_count)


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
        labelled_S = (self._labels_nS44 != 255).flatten(2).any(2).any(0)
        self._cells = labelled_S.nonzero()[:, 0]
        cells = model.num_classes * segmenter.grid_size**2
        self._micro_batch = max(1, _PAIR_CELLS.get(self._device.type, 2**20) // cells)
        self._parallel = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._rank = dist.get_rank() if self._parallel else 0
        self._ranks = dist.get_world_size() if self._parallel else 1
        model.prepare(data.embeddings, self._labels_nS44)
        self.optimiser = Optimiser(
            model,
            total_steps=settings.epochs * settings.steps_per_epoch,
            seed=settings.seed,
            scaled=settings.precision == "fp16",
        )

    def step(self) -> Tensor:
        """One optimiser step; returns the loss of the whole batch."""
        images, cells_P = self._draw()
        labels_BX = self._labels_nS44[images][:, cells_P].flatten(1)
        totals = BatchTotals.of(labels_BX.to(self._device), self._model.num_classes)
        cells_P = cells_P.to(self._device)
        loss = torch.zeros((), device=self._device)
        self.optimiser.zero_grad()
        mine = slice(self._rank, None, self._ranks)
        for batch, labels in zip(
            torch.split(images[mine], self._micro_batch),
            torch.split(labels_BX[mine], self._micro_batch),
            strict=True,
        ):
            if len(batch):
                share = self._loss(batch, labels.to(self._device), cells_P, totals)
                self.optimiser.backward(share)
                loss += share.detach()
        penalty = self._model.penalty()
        if penalty is not None:
            self.optimiser.backward(penalty / self._ranks)
            loss += penalty.detach() / self._ranks
        if self._parallel:
            dist.all_reduce(loss)
            self.optimiser.sum_gradients()
        self.optimiser.step()
        return loss

    def _draw(self) -> tuple[Tensor, Tensor]:
        generator = self.optimiser.generator
        images = torch.randperm(len(self._data.labels), generator=generator)
        count = self._settings.cells or len(self._cells)
        chosen = torch.randperm(len(self._cells), generator=generator)[:count]
        return images[: self._settings.batch_size], self._cells[chosen].sort().values

    def _loss(
        self, images: Tensor, labels_BX: Tensor, cells_P: Tensor, totals: BatchTotals
    ) -> Tensor:
        embeddings = self._data.embeddings[images].to(self._device, torch.float32)
        dtype = _DTYPES[self._settings.precision]
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            logits_BCP44 = self._model.class_logits(embeddings, cells_P)
        return segmentation_loss(
            logits_BCP44.flatten(2),
            labels_BX,
            totals,
            ce_weight=self._settings.ce_weight,
            dice_weight=self._settings.dice_weight,
        )
