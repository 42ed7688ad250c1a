"""The pretraining loop: one-thread processes that average their gradients, resumable."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from ssprompt_core.data.domains import WORLDS
from ssprompt_core.pretrain.batches import Scenes, draw_batch, draw_share
from ssprompt_core.pretrain.config import PretrainConfig
from ssprompt_core.pretrain.losses import WEIGHTS, step_losses
from ssprompt_core.pretrain.state import PretrainState, Weights

CHECKPOINT = "checkpoint.safetensors"
Show = Callable[[str], None]


def pretrain_stages(
    stages: Sequence[PretrainConfig],
    folder: Path,
    show: Show = print,
    *,
    first: int = 1,
    start: Weights | None = None,
) -> PretrainState:
    """Train stage after stage, each from the averaged weights of the one before.

    Args:
        stages: Their settings, in order.
        folder: Where each stage has a folder of its own with its checkpoint.
        show: Takes lines of progress.
        first: Number of the stage to begin with, from 1.
        start: Averaged weights of the stage before it; None: random ones.

    Returns:
        The final state of the last stage.

    Raises:
        UserError: A stage's checkpoint belongs to another configuration.
    """
    state: PretrainState | None = None
    for number, config in enumerate(stages[first - 1 :], first):
        show(f"stage {number} of {len(stages)}: {last_step(config)} steps on '{config.world}'")
        start = state.averaged_weights() if state is not None else start
        state = pretrain(config, folder / f"stage-{number}", show, start)
    assert state is not None
    return state


def pretrain(
    config: PretrainConfig, folder: Path, show: Show = print, start: Weights | None = None
) -> PretrainState:
    """Train to the last step, from the folder's checkpoint where there is one.

    Several one-thread processes are faster than one of several threads: tensors are small, and
    threads wait for each other.

    Args:
        config: Of the run.
        folder: Where the checkpoint is kept.
        show: Takes lines of progress.
        start: Weights to begin with where there is no checkpoint; None: random ones.

    Returns:
        The final state.

    Raises:
        UserError: The folder's checkpoint belongs to another configuration.
    """
    state = PretrainState(config, start)
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        state.load(checkpoint)
        show(f"resuming {checkpoint} at step {state.step} of {last_step(config)}")
    if state.step < last_step(config):
        if config.processes > 1:
            arguments = (config, folder, start, _free_port())
            spawn(_worker, arguments, nprocs=config.processes)  # type: ignore[no-untyped-call]
        else:
            train_share(config, folder, 0, show, start)
        state.load(checkpoint)
    return state


def _worker(
    rank: int, config: PretrainConfig, folder: Path, start: Weights | None, port: int
) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=config.processes)
    train_share(config, folder, rank, print, start)
    dist.destroy_process_group()


def train_share(
    config: PretrainConfig, folder: Path, rank: int, show: Show, start: Weights | None
) -> None:
    """One process's part; rank 0 writes checkpoints and shows progress."""
    state = PretrainState(config, start)
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        state.load(checkpoint)
    if rank == 0:
        show(f"drawing {config.scenes} scenes ...")
    scenes = draw_share(
        WORLDS[config.world], config.scenes, config.data_seed, rank, config.processes
    )
    if config.processes > 1:
        # nobody may read a checkpoint that rank 0 has already replaced
        dist.barrier()
    began, first = time.monotonic(), state.step
    smoothed: dict[str, float] = {}
    last = last_step(config)
    while state.step < last:
        parts = train_step(state, scenes, rank)
        if rank:
            continue
        for name, value in parts.items():
            smoothed[name] = 0.95 * smoothed.get(name, value) + 0.05 * value
        if state.step % 25 == 0 or state.step == last:
            per_step = (time.monotonic() - began) / (state.step - first)
            left = per_step * (last - state.step) / 60
            losses = " ".join(f"{name} {value:.3f}" for name, value in smoothed.items())
            show(f"step {state.step}/{last}, {left:.0f} min left: {losses}")
        if state.step % config.checkpoint_every == 0 or state.step == last:
            state.save(checkpoint)


def last_step(config: PretrainConfig) -> int:
    """The step at which the run ends."""
    return min(config.steps, config.stop or config.steps)


def train_step(state: PretrainState, scenes: Scenes, rank: int) -> dict[str, float]:
    """One optimiser step; returns the parts of this process's loss."""
    config = state.config
    rng = np.random.default_rng([config.seed, state.step, rank])
    for group in state.optimizer.param_groups:
        group["lr"] = _learning_rate(config, state.step)
    batch = draw_batch(scenes, config.batch, rng)
    parts = step_losses(state.sam, state.text, state.heads, config, batch, rng)
    state.optimizer.zero_grad()
    total = torch.stack([WEIGHTS[name] * part for name, part in parts.items()]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    _average_and_clip(list(state.parameters.values()), config)
    state.optimizer.step()
    state.update_average()
    state.step += 1
    return {name: part.item() for name, part in parts.items()}


def _learning_rate(config: PretrainConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / config.warmup)
    return config.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)) + 1e-6


def _average_and_clip(parameters: list[torch.nn.Parameter], config: PretrainConfig) -> None:
    """Average gradients over the processes in one message and bound their norm."""
    grads: list[Tensor] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    if config.processes > 1:
        dist.all_reduce(flat)
        flat /= config.processes
    flat *= min(1.0, config.clip / (float(flat.norm()) + 1e-6))
    pieces = torch.split(flat, [grad.numel() for grad in grads])
    for parameter, grad in zip(parameters, pieces, strict=True):
        parameter.grad = grad.view_as(parameter)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
