"""One fit under way: its data, its random draws, its optimiser, and what it comes to."""

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
from ssprompt_core.models.frozen import FrozenImages, Images
from ssprompt_core.train.data import LabelledEmbeddings, label_cells
from ssprompt_core.train.losses import BatchTotals, class_weights, segmentation_loss
from ssprompt_core.train.optimiser import Optimiser
from ssprompt_core.train.settings import DTYPES, FitSettings
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.stopping import BestEpoch

_PAIR_CELLS = {"cpu": 2**14, "cuda": 2**20}
"""Cells times (image, class) pairs with gradient at once, where ``micro_batch`` is 0.

That bounds the memory (a pair of ViT-B's 4096 cells keeps about 60 MB) and changes no number but
by rounding. On the CPU it is what two images of ten classes take with the small model: more at once
gains nothing, and with less the many small operations of a pass count twice.
"""

_RESIDENT_BYTES = 2**30
"""Embeddings of a fit that stay on the GPU; more are copied there step by step."""

Report = Callable[[dict[str, float], TrainState | None], None]
"""Takes the metrics of an epoch (``epoch`` from 1, ``loss``, ``lr``, and ``support_miou`` where
``patience`` is on) and the state to resume from, or None at epochs without checkpoint."""

GetCheckpoint = Callable[[], TrainState | None]
"""Gives the state to go on from, or None."""


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


@dataclass(frozen=True)
class Draw:
    """What one optimiser step looks at, on the CPU.

    Attributes:
        images: Indices of ``B`` images, int64.
        cells_P: Flat indices of embedding cells, int64.
        labels_BX: Classes or 255 of the cells' pixels, uint8 ``[B, 16 P]``.
    """

    images: Tensor
    cells_P: Tensor
    labels_BX: Tensor


class Loop:
    """Batches, losses, gradients and epochs of one fit, from its checkpoint on.

    Args:
        model: Untrained; moved to the device.
        data: The support images.
        settings: How to train.
        report: Called after each epoch.
        get_checkpoint: Gives the state to go on from, or None.

    Attributes:
        model: As given.
        settings: As given.
        weight_C: Weights of the classes in the loss, on the device, or None.
        micro_batch: Images with gradient at once.

    Raises:
        UserError: A label has a class that the model lacks, or the checkpoint does not fit.
        ValueError: There are no images.
    """

    def __init__(
        self,
        model: FewShotModel,
        data: LabelledEmbeddings,
        settings: FitSettings,
        report: Report,
        get_checkpoint: GetCheckpoint,
    ) -> None:
        if not len(data.labels):
            raise ValueError("there are no images to fit")
        self.model = model.place(settings.device)
        self.settings, self._report = settings, report
        self._device = torch.device(settings.device)
        segmenter = model.segmenter
        segmenter.compile_decoder(settings.compile)
        self._labels_nS44 = label_cells(data.labels, segmenter, model.num_classes)
        self._embeddings = data.embeddings
        self._frozen: FrozenImages | None = None
        # a cell that is padding or unlabelled in every image has nothing to teach
        labelled_S = (self._labels_nS44 != IGNORE).flatten(2).any(2).any(0)
        self._cells = labelled_S.nonzero()[:, 0]
        weight_C = class_weights(self._labels_nS44, model.num_classes, settings.class_balance)
        self.weight_C = weight_C if weight_C is None else weight_C.to(self._device)
        cells = model.passes * segmenter.grid_size**2
        usual = max(1, _PAIR_CELLS.get(self._device.type, 2**20) // cells)
        self.micro_batch = settings.micro_batch or usual
        self._parallel = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._rank = dist.get_rank() if self._parallel else 0
        self._ranks = dist.get_world_size() if self._parallel else 1
        model.prepare(data.embeddings, self._labels_nS44)
        if model.parameter_groups():
            self._frozen = model.freeze_images(data.embeddings)
        resident = 4 * data.embeddings.numel() <= _RESIDENT_BYTES
        if self._device.type != "cpu" and self._frozen is None and resident:
            self._embeddings = data.embeddings.to(self._device, torch.float32)
        self._optimiser: Optimiser | None = None
        self._best: BestEpoch | None = None
        self._stopped = self._diverged = False
        if model.parameter_groups():
            self._begin(get_checkpoint)

    def _begin(self, get_checkpoint: GetCheckpoint) -> None:
        settings = self.settings
        self._optimiser = Optimiser(
            self.model,
            total_steps=settings.epochs * settings.steps_per_epoch,
            seed=settings.seed,
            warm_up=settings.warm_up,
            shape=settings.schedule,
            scaled=settings.precision == "fp16",
        )
        self._best = BestEpoch(self.model, settings.patience) if settings.patience else None
        state = get_checkpoint()
        if state is not None:
            self._optimiser.restore(state)
            if self._best:
                self._best.restore(state)
        self._stopped = self._best is not None and self._best.exhausted(self._optimiser.epoch)

    @property
    def optimiser(self) -> Optimiser:
        """State of the training; a model without trained parameters has none."""
        assert self._optimiser is not None
        return self._optimiser

    @property
    def going(self) -> bool:
        """Whether there is an epoch left to train."""
        if self._optimiser is None or self._stopped or self._diverged:
            return False
        return self._optimiser.epoch < self.settings.epochs

    @property
    def images_per_step(self) -> int:
        """Images of a step, fewer than asked for where there are no more."""
        return min(self.settings.batch_size, len(self._labels_nS44))

    def begin_epoch(self) -> None:
        """Forget the losses of the last epoch."""
        self._total = torch.zeros((), dtype=torch.float64, device=self._device)
        self._rate = self.optimiser.rate

    def count(self, loss: Tensor) -> None:
        """Add the loss of a step to its epoch's."""
        self._total += loss

    def end_epoch(self) -> None:
        """Report the epoch, and see whether it was the last."""
        optimiser, settings, best = self.optimiser, self.settings, self._best
        optimiser.epoch += 1
        optimiser.loss = float(self._total) / settings.steps_per_epoch
        finite = math.isfinite(optimiser.loss)
        metrics = {"epoch": optimiser.epoch, "loss": optimiser.loss, "lr": self._rate}
        if best:
            metrics["support_miou"] = self.support_miou() if finite else math.nan
            best.update(optimiser.epoch, optimiser.loss, metrics["support_miou"])
            self._stopped = finite and best.exhausted(optimiser.epoch)
        keep = settings.checkpoint_every and optimiser.epoch % settings.checkpoint_every == 0
        self._report(metrics, self._state() if keep and finite else None)
        # further steps cannot mend what diverged
        self._diverged = not finite

    def result(self) -> FitResult:
        """What the fit came to; gives the model the parameters of its best epoch."""
        optimiser, best = self._optimiser, self._best
        if optimiser is None:
            return FitResult(loss=0.0, epochs=0, steps=0, best_epoch=0, stopped=False)
        loss, best_epoch = optimiser.loss, optimiser.epoch
        if best and best.epoch:
            best.reinstate()
            loss, best_epoch = best.loss, best.epoch
        return FitResult(
            loss=loss,
            epochs=optimiser.epoch,
            steps=optimiser.step_count,
            best_epoch=best_epoch,
            stopped=self._stopped and optimiser.epoch < self.settings.epochs,
        )

    def _state(self) -> TrainState:
        return TrainState(self.optimiser.state() | (self._best.state() if self._best else {}))

    def step(self) -> Tensor:
        """One optimiser step of this fit alone; returns the loss of the whole batch."""
        optimiser, draw = self.optimiser, self.draw()
        totals = BatchTotals.of(draw.labels_BX.to(self._device), self.model.num_classes)
        cells_P = draw.cells_P.to(self._device)
        loss = torch.zeros((), device=self._device)
        optimiser.zero_grad()
        mine = slice(self._rank, None, self._ranks)
        for batch, labels in zip(
            torch.split(draw.images[mine], self.micro_batch),
            torch.split(draw.labels_BX[mine], self.micro_batch),
            strict=True,
        ):
            if len(batch):
                share = self._loss(batch, labels.to(self._device), cells_P, totals)
                optimiser.backward(share)
                loss += share.detach()
        penalty = self.model.penalty()
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
        num_classes = self.model.num_classes
        cells_P = self._cells.to(self._device)
        confusion_CC = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=self._device)
        images = torch.arange(len(self._labels_nS44))[self._rank :: self._ranks]
        for batch in torch.split(images, self.micro_batch):
            if len(batch):
                classes_BP44 = self._logits(batch, cells_P).argmax(1)
                labels_BP44 = self._labels_nS44[batch][:, self._cells].to(self._device)
                confusion_CC += confusion_matrix(classes_BP44, labels_BP44, num_classes)
        if self._parallel:
            dist.all_reduce(confusion_CC)
        return mean_iou(confusion_CC)

    def draw(self) -> Draw:
        """Images and cells of the next step, from the fit's own random numbers."""
        generator = self.optimiser.generator
        images = torch.randperm(len(self._labels_nS44), generator=generator)
        images = images[: self.images_per_step]
        count = self.settings.cells or len(self._cells)
        chosen = torch.randperm(len(self._cells), generator=generator)[:count]
        cells_P = self._cells[chosen].sort().values
        return Draw(images, cells_P, self._labels_nS44[images][:, cells_P].flatten(1))

    def embeddings(self, images: Tensor) -> Tensor:
        """Embeddings of some images, float32 ``[B, D, h, w]`` on the device."""
        picked_BDhw = self._embeddings[images.to(self._embeddings.device)]
        return picked_BDhw.to(self._device, torch.float32)

    @property
    def prepared_bytes(self) -> int:
        """Memory that prepared images take."""
        return 0 if self._frozen is None else sum(x.nbytes for x in self._frozen.parts())

    def forget_prepared(self) -> None:
        """Give that memory back; from now on every step prepares its own images."""
        self._frozen = None

    def images(self, images: Tensor) -> Images:
        """Some images as the model takes them: prepared where they could be, or as embeddings."""
        if self._frozen is None:
            return self.embeddings(images)
        return self._frozen.take(images.to(self._device))

    def autocast(self) -> torch.autocast:
        """The precision of the settings, for a forward pass."""
        dtype = DTYPES[self.settings.precision]
        return torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32)

    def loss_settings(self) -> dict[str, float]:
        """Weights of the parts of the loss, as :func:`segmentation_loss` takes them."""
        names = ("ce_weight", "dice_weight", "focal_weight", "focal_gamma")
        return {name: getattr(self.settings, name) for name in names}

    def _logits(self, images: Tensor, cells_P: Tensor) -> Tensor:
        """Class logits ``[B, C, P, 4, 4]`` in the precision of the settings."""
        with self.autocast():
            return self.model.class_logits(self.images(images), cells_P)

    def _loss(
        self, images: Tensor, labels_BX: Tensor, cells_P: Tensor, totals: BatchTotals
    ) -> Tensor:
        logits_BCX = self._logits(images, cells_P).flatten(2)
        return segmentation_loss(
            logits_BCX, labels_BX, totals, class_weight_C=self.weight_C, **self.loss_settings()
        )
