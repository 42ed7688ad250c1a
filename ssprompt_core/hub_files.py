"""What reading folders in the `transformers` layout has in common, whatever the kind of model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ssprompt_core.errors import UserError

# what transformers raises for files that are cut off, of another kind or of another shape
_UNREADABLE = (
    OSError, ValueError, LookupError, RuntimeError, AttributeError, TypeError, ImportError,
    SafetensorError,
)  # fmt: skip


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Turn what `transformers` raises into one sentence.

    Args:
        folder: Where the model is read from.
        what: What it is read as, for the message.

    Raises:
        UserError: Something in it cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except _UNREADABLE as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} cannot be read as a {what}: {first_line}") from error


def refuse_incomplete(folder: Path, what: str, missing: Iterable[str]) -> None:
    """Refuse a folder that lacks weights: transformers fills them with random numbers.

    Raises:
        UserError: A key is missing.
    """
    if names := sorted(missing):
        raise UserError(f"{folder} has no '{names[0]}', so it is not a whole {what}")


def refuse_broken(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not finite numbers.

    Raises:
        UserError: One is not; the message names it.
    """
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{folder} has values in '{key}' that are not finite numbers")
