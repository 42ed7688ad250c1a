"""How a fit is trained, whatever the method: one frozen record, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssprompt_core.errors import UserError
from ssprompt_core.train.optimiser import SCHEDULES, WARM_UP

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a model is trained, whatever the method.

    Attributes:
        epochs: Number of epochs; after each, values are reported.
        steps_per_epoch: Optimiser steps an epoch.
        batch_size: Images a step; all of them if there are fewer.
        micro_batch: Images with gradient at once: gradients of a batch are accumulated over such
            parts, which bounds the memory and changes no number but by rounding; 0: as many as are
            usual for the device.
        cells: Embedding cells sampled a step (the same ones of each image); 0 means all.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of dice.
        focal_weight: Weight of the focal loss.
        focal_gamma: How much the focal loss neglects what is already right; 0 is cross-entropy.
        class_balance: From 0 (each pixel counts alike in cross-entropy and focal loss) to 1 (each
            class does); see :func:`ssprompt_core.train.losses.class_weights`.
        warm_up: Share of the steps over which the learning rates rise, in [0, 1].
        schedule: What follows: ``cosine``, a fall to zero, or ``constant``.
        patience: Epochs without a better score on the support images after which training ends,
            with the parameters of the best epoch; 0: never, with those of the last. See
            :class:`ssprompt_core.train.stopping.BestEpoch` for what that score can tell.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16`` (the latter on a GPU only).
        device: ``cpu`` or ``cuda``.
        compile: Whether the decoder is trained through ``torch.compile``, where the machine has a
            compiler; changes no number but by rounding.
        seed: Of batches and cells.
        checkpoint_every: Epochs between checkpoints; 0 means none.

    Raises:
        UserError: A value is out of range, or the precision is unknown or not available.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int = 8
    micro_batch: int = 0
    cells: int = 64
    ce_weight: float = 1.0
    dice_weight: float = 1.0
    focal_weight: float = 0.0
    focal_gamma: float = 2.0
    class_balance: float = 0.0
    warm_up: float = WARM_UP
    schedule: str = "cosine"
    patience: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    compile: bool = False
    seed: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1")
        weights = ("ce_weight", "dice_weight", "focal_weight")
        counts = ("cells", "micro_batch", "patience", "checkpoint_every")
        for name in (*weights, "focal_gamma", *counts):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must not be negative")
        if not any(getattr(self, name) for name in weights):
            raise UserError(f"{', '.join(weights)} are all 0, but one must be positive")
        for name in ("class_balance", "warm_up"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be between 0 and 1")
        for name, choices in (("precision", tuple(DTYPES)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name} is '{getattr(self, name)}', but must be one of {', '.join(choices)}"
                )
        if self.precision == "fp16" and not self.device.startswith("cuda"):
            raise UserError(
                f"precision is fp16, which needs a GPU, but the device is {self.device}"
            )
