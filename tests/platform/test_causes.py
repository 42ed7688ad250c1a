from __future__ import annotations

import pytest
import torch

from ssprompt_platform.causes import DivergedError, cause_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no such\n  thing"), "ValueError: no such"),
        (ValueError("\n  a   b \n"), "ValueError: a b"),
        (AssertionError(), "AssertionError"),
        (DivergedError(7, float("inf")), "the loss was inf at epoch 7: the fit diverged"),
        (MemoryError(), "out of memory (MemoryError)"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "out of memory (OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.)",
        ),
        (RuntimeError("something else"), "RuntimeError: something else"),
    ],
)
def test_causes_are_one_line_with_the_type(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


def test_what_torch_says_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert cause_of(caught.value).startswith("out of memory (RuntimeError: ")


def test_long_messages_are_cut() -> None:
    cause = cause_of(ValueError("x" * 1000))
    assert len(cause) == 300
    assert cause.endswith("xxx...")
