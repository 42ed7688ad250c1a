"""Why a fit or a trial failed, in one line that is kept and shown."""

from __future__ import annotations

import torch

_LONGEST = 300


class DivergedError(RuntimeError):
    """The loss of a fit is not finite; further steps cannot mend it."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"the loss was {loss} at epoch {epoch}: the fit diverged")


def cause_of(error: BaseException) -> str:
    """Type and message of an error in one line of at most 300 characters.

    Lack of memory is named as such, however torch or the system words it.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    message = next((line for line in lines if line), "")
    if isinstance(error, DivergedError):
        return message
    kind = type(error).__name__
    text = f"{kind}: {message}" if message else kind
    return _cut(f"out of memory ({text})" if is_out_of_memory(error) else text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine was not enough."""
    # torch has no class of its own for the CPU's memory
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
