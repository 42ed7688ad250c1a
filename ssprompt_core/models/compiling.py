"""``torch.compile`` where a machine can: the compiled function, or the function as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]


class Compiled:
    """A function that is compiled at its first call, and stays as it is where that fails.

    Compiling needs a C++ compiler (on a GPU Triton) on the machine that trains, and takes about a
    minute for a decoder. What cannot be compiled is no error: the numbers are the same.

    Args:
        function: A pure function of tensors.
        backend: Of ``torch.compile``.
    """

    def __init__(self, function: Function, backend: str = "inductor") -> None:
        self._function = function
        self._run: Function | None = None
        self._backend = backend

    def __call__(self, *arguments: Any) -> Tensor:
        """The function's value."""
        if self._run is None:
            self._run = torch.compile(self._function, backend=self._backend)
        if self._run is self._function:
            return self._function(*arguments)
        try:
            return self._run(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"{self._function.__name__} cannot be compiled here and runs as it is: {reason}",
                stacklevel=2,
            )
            self._run = self._function
            return self._function(*arguments)


_COMPILED: dict[Function, Compiled] = {}


def compiled(function: Function) -> Compiled:
    """The compiled form of a function, one for the whole process."""
    return _COMPILED.setdefault(function, Compiled(function))
