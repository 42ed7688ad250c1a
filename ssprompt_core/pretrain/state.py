"""The whole state of a pretraining run, as one safetensors file that a run resumes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssprompt_core.errors import UserError
from ssprompt_core.models.small_sam import EMBED_DIM, SmallSam
from ssprompt_core.pretrain.config import PretrainConfig
from ssprompt_core.pretrain.losses import Heads
from ssprompt_core.text.small import NgramText

Weights = dict[str, Tensor]
"""Tensors by name, with the prefixes ``sam.`` and ``text.``."""


class PretrainState:
    """Weights, their moving average and the optimiser, at a step.

    Batches are drawn from (seed, step, rank), so no random state needs keeping.

    Args:
        config: Of the run; without ``start`` the initial weights follow from its seed.
        start: Averaged weights of an earlier stage to begin with.
    """

    def __init__(self, config: PretrainConfig, start: Weights | None = None) -> None:
        self.config = config
        self.step = 0
        torch.manual_seed(config.seed)
        self.sam, self.text, self.heads = SmallSam(), NgramText(EMBED_DIM), Heads()
        self.modules = nn.ModuleDict({"sam": self.sam, "text": self.text, "heads": self.heads})
        if start is not None:
            self._start_from(start)
        self.parameters = dict(self.modules.named_parameters())
        self.average = {name: t.detach().clone() for name, t in self._tensors().items()}
        decayed = [p for name, p in self.parameters.items() if _is_decayed(name, p)]
        plain = [p for name, p in self.parameters.items() if not _is_decayed(name, p)]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.98),
        )

    def _start_from(self, weights: Weights) -> None:
        """Take the SAM and the text encoder of an earlier stage; the heads begin anew."""
        for prefix, module in (("sam.", self.sam), ("text.", self.text)):
            own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            module.load_state_dict(own)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the weights; faster in the first steps."""
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        for name, tensor in self._tensors().items():
            self.average[name].mul_(decay).add_(tensor, alpha=1 - decay)

    def averaged_weights(self) -> Weights:
        """What is shipped: the averaged SAM and text encoder, without the heads."""
        return {n: t for n, t in self.average.items() if not n.startswith("heads.")}

    def save(self, path: Path) -> None:
        """Write everything under a temporary name, then rename."""
        tensors = {f"weights/{n}": t.detach() for n, t in self._tensors().items()}
        tensors |= {f"average/{n}": t for n, t in self.average.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        metadata = {"step": str(self.step), "config": json.dumps(asdict(self.config))}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a file that :meth:`save` wrote.

        Raises:
            UserError: It was written with another configuration.
        """
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["config"]) != asdict(self.config):
                raise UserError(
                    f"{path} belongs to a run with another configuration; name another --folder "
                    "or repeat the options of that run"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.step = int(metadata["step"])
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(tensors[f"weights/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
        for name, parameter in self.parameters.items():
            own = {
                key: tensors[f"{key}/{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in tensors
            }
            if own:
                self.optimizer.state[parameter] = own

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.modules.state_dict())


def _is_decayed(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices and kernels; not for embeddings, norms and biases."""
    return parameter.ndim > 1 and not any(part in name for part in ("embed", "token", "table"))
