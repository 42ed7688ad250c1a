"""Several fits as one batch: each keeps its own optimiser and random numbers, passes are shared."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.models.frozen import MAX_FROZEN_BYTES, stack_images
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import no_checkpoint, no_report
from ssprompt_core.train.loop import Draw, FitResult, GetCheckpoint, Loop, Report
from ssprompt_core.train.losses import BatchTotals, segmentation_loss
from ssprompt_core.train.settings import FitSettings


@dataclass(frozen=True)
class Fit:
    """One of several fits; see :func:`ssprompt_core.train.fit.fit` for the fields."""

    model: FewShotModel
    data: LabelledEmbeddings
    settings: FitSettings
    report: Report = no_report
    get_checkpoint: GetCheckpoint = no_checkpoint


def fit_together(fits: Sequence[Fit]) -> list[FitResult]:
    """Train several models in place, with the results of separate fits up to rounding.

    Fits whose models are kin (:meth:`FewShotModel.kinship`) and whose settings ask for the same
    arithmetic take their steps together: forward and backward are one batch. All else is each
    fit's own, as in :func:`ssprompt_core.train.fit.fit`: images and cells of a step, learning
    rates, number of epochs, reports, checkpoints in the same form, early stopping. A fit that ends
    or diverges leaves the batch and touches no other. Fits without kin train one after the other.

    Epochs are taken in turn: each fit has done its next epoch before one does its next but one.
    An exception of a ``report`` ends all of them where they are.

    Args:
        fits: What to fit. Models may share a segmenter, but nothing that is trained.

    Raises:
        UserError: A label has a class that its model lacks, or a checkpoint does not fit.
        ValueError: There are no images.
    """
    loops = _begun(fits)
    kin: dict[Hashable, list[Loop]] = {}
    for number, loop in enumerate(loops):
        kin.setdefault(_kinship(loop) or number, []).append(loop)
    for group in kin.values():
        while going := [loop for loop in group if loop.going]:
            _epoch(going)
    return [loop.result() for loop in loops]


def _begun(fits: Sequence[Fit]) -> list[Loop]:
    """All fits at their checkpoints.

    Together they may prepare as many images as one fit may; where they are more, none does.
    """
    loops: list[Loop] = []
    too_many = False
    for one in fits:
        loops.append(Loop(one.model, one.data, one.settings, one.report, one.get_checkpoint))
        limit = MAX_FROZEN_BYTES.get(torch.device(one.settings.device).type, 2**28)
        too_many = too_many or sum(loop.prepared_bytes for loop in loops) > limit
        if too_many:
            for loop in loops:
                loop.forget_prepared()
    return loops


def _kinship(loop: Loop) -> Hashable:
    """Equal for fits that take their steps together; None for one that trains alone."""
    kinship, settings = loop.model.kinship(), loop.settings
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if kinship is None or ranks > 1:
        return None
    arithmetic = (settings.device, settings.precision, settings.steps_per_epoch, loop.micro_batch)
    return kinship, arithmetic, tuple(loop.loss_settings().values()), loop.weight_C is None


def _epoch(loops: Sequence[Loop]) -> None:
    for loop in loops:
        loop.begin_epoch()
    # no more images at once than one fit would take bounds the memory; a batch that is cut already
    # is not cut further: shares of several cost as much as the same of one
    images = max(loop.images_per_step for loop in loops)
    at_once = max(1, loops[0].micro_batch // images)
    parts = [loops[i : i + at_once] for i in range(0, len(loops), at_once)]
    for _ in range(loops[0].settings.steps_per_epoch):
        for part in parts:
            if len(part) == 1:
                part[0].count(part[0].step())
            else:
                _step(part)
    for loop in loops:
        loop.end_epoch()


def _step(loops: Sequence[Loop]) -> None:
    """One optimiser step of each fit."""
    device = loops[0].settings.device
    num_classes = loops[0].model.num_classes
    draws = [loop.draw() for loop in loops]
    totals = [BatchTotals.of(draw.labels_BX, num_classes) for draw in draws]
    totals_G = BatchTotals(
        torch.stack([each.pixels for each in totals]).to(device),
        torch.stack([each.present for each in totals]).to(device),
    )
    images_GB, cells_GP, labels_GBX = _aligned(draws)
    cells_GP, labels_GBX = cells_GP.to(device), labels_GBX.to(device)
    for loop in loops:
        loop.optimiser.zero_grad()
    loss_G = _losses(loops, images_GB, cells_GP, labels_GBX, totals_G)
    _backward(loops, loss_G)
    for loop, loss in zip(loops, loss_G.detach(), strict=True):
        penalty = loop.model.penalty()
        if penalty is not None:
            loop.optimiser.backward(penalty)
            loss = loss + penalty.detach()
        loop.optimiser.step()
        loop.count(loss)


def _losses(
    loops: Sequence[Loop],
    images_GB: Tensor,
    cells_GP: Tensor,
    labels_GBX: Tensor,
    totals_G: BatchTotals,
) -> Tensor:
    """Loss of each fit's images, ``[G]``."""
    first = loops[0]
    images = stack_images([loop.images(i) for loop, i in zip(loops, images_GB, strict=True)])
    if images is None:  # those of some fits are too many to be prepared
        images = torch.stack([x.embeddings(i) for x, i in zip(loops, images_GB, strict=True)])
    with first.autocast():
        models = [loop.model for loop in loops]
        logits = first.model.logits_of_groups(models, images, cells_GP)
    weights = [loop.weight_C for loop in loops if loop.weight_C is not None]
    settings = first.loss_settings()

    def loss(
        logits_BCX: Tensor,
        labels_BX: Tensor,
        pixels: Tensor,
        present: Tensor,
        weight_C: Tensor | None,
    ) -> Tensor:
        totals = BatchTotals(pixels, present)
        return segmentation_loss(logits_BCX, labels_BX, totals, class_weight_C=weight_C, **settings)

    weight_GC = torch.stack(weights) if weights else None
    by_fit = torch.func.vmap(loss, in_dims=(0, 0, 0, 0, 0 if weights else None))
    loss_G: Tensor = by_fit(
        logits.flatten(3), labels_GBX, totals_G.pixels, totals_G.present, weight_GC
    )
    return loss_G


def _backward(loops: Sequence[Loop], loss_G: Tensor) -> None:
    """Add the gradients of all fits: no parameter belongs to two, so their sum mixes nothing."""
    scaled = [
        loop.optimiser.scaled(loss) for loop, loss in zip(loops, loss_G.unbind(), strict=True)
    ]
    torch.stack(scaled).sum().backward()  # type: ignore[no-untyped-call]


def _aligned(draws: Sequence[Draw]) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``[G, B]``, cells ``[G, P]`` and labels ``[G, B, 16 P]`` of equal shape.

    Support draws of equal K may differ in size by a few images. They are filled up with the fit's
    image 0 and cell 0 without labels, which add 0 to the loss and to every gradient.
    """
    B = max(len(draw.images) for draw in draws)
    P = max(len(draw.cells_P) for draw in draws)
    images, cells, labels = [], [], []
    for draw in draws:
        more_images, more_cells = B - len(draw.images), P - len(draw.cells_P)
        images.append(F.pad(draw.images, (0, more_images)))
        cells.append(F.pad(draw.cells_P, (0, more_cells)))
        labels.append(F.pad(draw.labels_BX, (0, 16 * more_cells, 0, more_images), value=IGNORE))
    return torch.stack(images), torch.stack(cells), torch.stack(labels)
