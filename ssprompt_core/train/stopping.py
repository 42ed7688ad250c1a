"""Early stopping on the support images alone: the best epoch so far, and when to end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods.model import FewShotModel


class BestEpoch:
    """Remembers the epoch with the best score and says when too many have passed since.

    The score is the mean IoU on the support images, those that are trained on: no other image plays
    a part, so nothing is chosen on what a study scores later. Read it with care. It can tell that
    training diverged, swings under too high a learning rate, or stands still. It cannot tell
    overfitting: it is optimistic, and with few images it keeps rising while the score on other
    images may fall. At small K it mostly guards against divergence and saves time.

    The learning rates follow the schedule of the whole fit, however early it ends. Each epoch costs
    one more pass over all support images, without gradient: with many images and few steps an epoch
    that can be more than the training.

    Args:
        model: Whose trained parameters are kept.
        patience: Epochs without improvement after which training ends, at least 1.

    Attributes:
        epoch: The best epoch, from 1; 0 while there is none.
        loss: Its mean loss.
        score: Its score in [0, 1]; of equal scores the first is the best.
    """

    def __init__(self, model: FewShotModel, patience: int) -> None:
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._patience = patience
        self._kept: dict[str, Tensor] = {}
        self.epoch, self.loss, self.score = 0, math.nan, -math.inf

    def update(self, epoch: int, loss: float, score: float) -> None:
        """Keep the parameters as they are now if their score is the best so far."""
        finite = all(bool(p.isfinite().all()) for p in self._trained.values())
        if finite and score > self.score:
            self.epoch, self.loss, self.score = epoch, loss, score
            self._kept = {name: p.detach().clone() for name, p in self._trained.items()}

    def exhausted(self, epoch: int) -> bool:
        """Whether training ends after this epoch."""
        return epoch - self.epoch >= self._patience

    @torch.no_grad()
    def reinstate(self) -> None:
        """Give the model the parameters of the best epoch, if there is one."""
        for name, kept in self._kept.items():
            self._trained[name].copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """A copy of everything, on the CPU, for a :class:`TrainState`."""
        numbers = {"epoch": self.epoch, "loss": self.loss, "score": self.score}
        state = {
            f"best_{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in numbers.items()
        }
        return state | {f"best.{name}": kept.cpu().clone() for name, kept in self._kept.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            UserError: It is of a fit without early stopping.
        """
        if "best_epoch" not in state:
            raise UserError(
                "the checkpoint has no best epoch: it is of a fit with patience 0, but patience "
                f"is {self._patience}"
            )
        self.epoch = int(state["best_epoch"])
        self.loss, self.score = float(state["best_loss"]), float(state["best_score"])
        if self.epoch:
            self._kept = {
                name: state[f"best.{name}"].to(p.device, copy=True)
                for name, p in self._trained.items()
            }
