"""A compiled decoder has the gradients of the same decoder, and one that cannot be is no error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ssprompt_core.models import compiling
from ssprompt_core.models.compiling import Compiled
from ssprompt_core.models.decoding import decode_masks
from ssprompt_core.train.fit import fit
from tests.core.test_decoding import problem
from tests.core.test_fit import SETTINGS, _parts
from tests.core.tiny_sam import tiny_segmenter


def test_the_compiled_decoder_gives_the_same_gradients() -> None:
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter, images=2, classes=2, count=2)
    frozen, images = segmenter._decoder(), segmenter.freeze_images(embeddings)
    cells = torch.tensor([3, 8])
    # no code is generated, but everything before that is what a compiler gets
    traced = Compiled(decode_masks, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(decode(frozen, images, tokens, cells).square().sum(), tokens)[0]
        for decode in (traced, decode_masks)
    )
    assert traced._run not in (None, decode_masks)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.std()))


def test_without_a_compiler_there_is_one_warning_and_the_same_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def no_compiler(function: Any, **options: Any) -> Any:
        def fails(*arguments: Any) -> Any:
            calls.append(function.__name__)
            raise torch._dynamo.exc.Unsupported("there is no C++ compiler")

        return fails

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(compiling, "_COMPILED", {})
    eager, data = _parts()
    wanted = fit(eager, data, SETTINGS)
    model, data = _parts()
    with pytest.warns(UserWarning, match="decode_masks cannot be compiled here.*no C.. compiler"):
        found = fit(model, data, replace(SETTINGS, compile=True))
    assert found == wanted
    assert calls == ["decode_masks"]
