"""AdamW with its schedule, random numbers and gradient scaler: all state of a fit in one place."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.train.state import TrainState

SCHEDULES = ("cosine", "constant")

WARM_UP = 0.05
"""Default share of the steps over which the learning rates rise."""


def schedule(
    step: int, total_steps: int, *, warm_up: float = WARM_UP, shape: str = "cosine"
) -> float:
    """Factor on the learning rates in (0, 1]: linear warm-up, then cosine to zero or constant.

    Args:
        step: Number of steps done, in ``[0, total_steps)``.
        total_steps: Steps of the whole fit.
        warm_up: Share of the steps that warm up, in [0, 1]; none of them at 0.
        shape: What follows the warm-up, one of :data:`SCHEDULES`.
    """
    rising = math.ceil(total_steps * warm_up)
    if step < rising:
        return (step + 1) / rising
    if shape == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))


class Optimiser:
    """Steps the trained parameters of a model.

    Args:
        model: On its device; has parameters to train.
        total_steps: Steps of the whole fit; the schedule's length.
        seed: Of :attr:`generator`.
        warm_up: As for :func:`schedule`.
        shape: As for :func:`schedule`.
        scaled: Whether gradients need scaling (fp16).

    Attributes:
        generator: Random numbers of batches and cells, on the CPU whatever the device.
        epoch: Epochs done; counted by the loop.
        loss: Mean loss of the last epoch, NaN before; kept by the loop.
        step_count: Steps done.
    """

    def __init__(
        self,
        model: FewShotModel,
        *,
        total_steps: int,
        seed: int,
        warm_up: float,
        shape: str,
        scaled: bool,
    ) -> None:
        self._adamw = torch.optim.AdamW(model.parameter_groups(), weight_decay=0.0)
        self._base_rates = [float(group["lr"]) for group in self._adamw.param_groups]
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._total_steps, self._warm_up, self._shape = total_steps, warm_up, shape
        device = next(iter(self._named.values())).device
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self.loss = math.nan
        self.step_count = 0

    @property
    def rate(self) -> float:
        """Factor on the learning rates at the next step."""
        step = min(self.step_count, self._total_steps - 1)
        return schedule(step, self._total_steps, warm_up=self._warm_up, shape=self._shape)

    def zero_grad(self) -> None:
        """Forget gradients; they become zeros, since a rank may have no share of a batch."""
        for parameter in self._named.values():
            parameter.grad = torch.zeros_like(parameter)
            device = parameter.device
        # the scaler steps only after it scaled something, which such a rank would not
        self._scaler.scale(torch.zeros((), device=device))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a share of the batch's loss."""
        self.scaled(loss).backward()  # type: ignore[no-untyped-call]

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the scale of its gradients, which :meth:`step` takes out again."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def sum_gradients(self) -> None:
        """Add up the gradients of all ranks, in one message: they are few numbers."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def step(self) -> None:
        """Move the parameters."""
        for group, base in zip(self._adamw.param_groups, self._base_rates, strict=True):
            group["lr"] = base * self.rate
        self._scaler.step(self._adamw)
        self._scaler.update()
        self.step_count += 1

    def state(self) -> TrainState:
        """A copy of everything that the next step depends on, on the CPU."""
        state = TrainState(
            epoch=torch.tensor(self.epoch),
            loss=torch.tensor(self.loss, dtype=torch.float64),
            step=torch.tensor(self.step_count),
            generator=self.generator.get_state(),
        )
        for name, parameter in self._named.items():
            state[f"parameter.{name}"] = parameter.detach().cpu().clone()
            for key, value in self._adamw.state[parameter].items():
                state[f"{key}.{name}"] = value.detach().cpu().clone()
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            state["scale"] = torch.tensor(scaler["scale"], dtype=torch.float64)
            state["growth"] = torch.tensor(scaler["_growth_tracker"])
        return state

    def restore(self, state: TrainState) -> None:
        """Go on from a state.

        Raises:
            UserError: It belongs to another model.
        """
        for name, parameter in self._named.items():
            saved = state.get(f"parameter.{name}")
            if saved is None or saved.shape != parameter.shape:
                raise UserError(
                    f"the checkpoint has '{name}' of shape "
                    f"{None if saved is None else tuple(saved.shape)}, but the model needs "
                    f"{tuple(parameter.shape)}; it belongs to another method or setting"
                )
        self.epoch, self.step_count = int(state["epoch"]), int(state["step"])
        self.loss = float(state["loss"])
        self.generator.set_state(state["generator"])
        for name, parameter in self._named.items():
            with torch.no_grad():
                parameter.copy_(state[f"parameter.{name}"])
            if f"step.{name}" not in state:
                continue  # the scaler skipped all steps so far (fp16): there are no moments yet
            # as AdamW keeps them: moments beside the parameter, the step count on the CPU
            self._adamw.state[parameter] = {
                "step": state[f"step.{name}"].clone(),
                "exp_avg": state[f"exp_avg.{name}"].to(parameter.device, copy=True),
                "exp_avg_sq": state[f"exp_avg_sq.{name}"].to(parameter.device, copy=True),
            }
        if self._scaler.is_enabled():
            saved_scaler = self._scaler.state_dict()
            saved_scaler["scale"] = float(state["scale"])
            saved_scaler["_growth_tracker"] = int(state["growth"])
            self._scaler.load_state_dict(saved_scaler)
