"""Everything a fit needs to go on as if it had never stopped, as one safetensors file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssprompt_core.errors import UserError


class TrainState(dict[str, Tensor]):
    """Tensors by name: ``parameter.*``, AdamW's ``exp_avg.*`` and ``exp_avg_sq.*``, and counters.

    ``epoch`` and ``step`` count what is done, ``loss`` is that of the last epoch, ``generator`` is
    the state of the random numbers, ``scale`` and ``growth`` belong to the gradient scaler (fp16
    only), ``best_*`` and ``best.*`` to early stopping (where it is on).
    """

    def save(self, path: Path) -> None:
        """Write the file in whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(dict(self), temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that :meth:`save` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return cls(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read as a training state: {error}") from error
