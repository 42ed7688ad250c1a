"""What is computed once stays true: prepared images, the decoder's constants, the CPU's kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssprompt_core.models import frozen, kernels
from ssprompt_core.models.frozen import FrozenDecoder, FrozenImages, stack_images
from ssprompt_core.train.fit import fit
from tests.core.test_decoding import problem, stock_logits
from tests.core.test_fit import SETTINGS, _parts
from tests.core.tiny_sam import tiny_segmenter

CELLS = torch.tensor([1, 8, 20])


def gradient(segmenter, images, tokens) -> tuple[Tensor, Tensor]:
    logits = segmenter.decode(images, tokens, cells_P=CELLS)
    (found,) = torch.autograd.grad(logits.square().sum(), tokens)
    return logits.detach(), found


def test_prepared_images_give_the_logits_and_gradients_of_embeddings() -> None:
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter, images=11)
    images = segmenter.freeze_images(embeddings)
    assert len(images) == 11
    some = torch.tensor([9, 2])
    for found, wanted in zip(
        gradient(segmenter, images.take(some), tokens),
        gradient(segmenter, embeddings[some], tokens),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(
            segmenter.decode(images, tokens), segmenter.decode(embeddings, tokens)
        )


def test_images_beyond_the_memory_are_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter()
    embeddings, _ = problem(segmenter, images=3)
    monkeypatch.setitem(frozen.MAX_FROZEN_BYTES, "cpu", 3 * 4 * 36 * (16 + 3 * 8))
    images = segmenter.freeze_images(embeddings)
    assert sum(part.nbytes for part in images.parts()) == frozen.MAX_FROZEN_BYTES["cpu"]
    monkeypatch.setitem(frozen.MAX_FROZEN_BYTES, "cpu", 3 * 4 * 36 * (16 + 3 * 8) - 1)
    assert segmenter.freeze_images(embeddings) is None


def test_groups_of_which_some_are_not_prepared_do_not_mix() -> None:
    segmenter = tiny_segmenter()
    embeddings, _ = problem(segmenter, images=2)
    images = segmenter.freeze_images(embeddings)
    assert stack_images([images, embeddings]) is None
    assert isinstance(stack_images([images, images]), FrozenImages)
    assert stack_images([embeddings, embeddings]).shape == (2, *embeddings.shape)


def in_place(segmenter) -> None:
    with torch.no_grad():
        for parameter in segmenter.mask_decoder.parameters():
            parameter.mul_(1.1)


def other_weights(segmenter) -> None:
    segmenter.load_state_dict(tiny_segmenter(seed=1).state_dict())


def assigned_weights(segmenter) -> None:
    segmenter.load_state_dict(tiny_segmenter(seed=1).state_dict(), assign=True)


def rounded(segmenter) -> None:
    segmenter.bfloat16().float()


def other_positions(segmenter) -> None:
    segmenter.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.5)


@pytest.mark.parametrize(
    "change", [in_place, other_weights, assigned_weights, rounded, other_positions]
)
def test_constants_of_the_decoder_follow_its_weights(change) -> None:
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter)
    with torch.no_grad():
        before = segmenter.decode(embeddings, tokens)
        change(segmenter)
        expected = stock_logits(segmenter, embeddings, tokens)
        found = segmenter.decode(embeddings, tokens)
    assert not torch.allclose(before, expected, rtol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.std()))


def test_a_fit_prepares_its_images_and_its_decoder_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    of, freeze = FrozenDecoder.of, FrozenDecoder.freeze

    def counted_of(*arguments: object) -> FrozenDecoder:
        made.append("decoder")
        return of(*arguments)

    def counted_freeze(self: FrozenDecoder, images: Tensor) -> FrozenImages:
        made.append(f"{len(images)} images")
        return freeze(self, images)

    monkeypatch.setattr(FrozenDecoder, "of", counted_of)
    monkeypatch.setattr(FrozenDecoder, "freeze", counted_freeze)
    model, data = _parts()
    result = fit(model, data, SETTINGS)
    assert result.steps == 12
    assert made == ["decoder", "4 images"]


def both_forms(monkeypatch, function, *inputs: Tensor) -> None:
    """The CPU's form and torch's operations agree in values and gradients."""
    results = []
    for enabled in (True, False):
        monkeypatch.setattr(kernels, "ENABLED", enabled)
        own = [x.clone().requires_grad_(x.requires_grad) for x in inputs]
        outputs = function(*own)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        probe = torch.Generator().manual_seed(1)
        total = sum((y * torch.randn(y.shape, generator=probe)).sum() for y in outputs)
        learned = [x for x in own if x.requires_grad]
        results.append([y.detach() for y in outputs] + list(torch.autograd.grad(total, learned)))
    for mine, reference in zip(*results, strict=True):
        scale = float(reference.abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5 * scale)


def drawn(*shape: int, learned: bool = True, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(*shape, generator=generator)).requires_grad_(learned)


# scores of a hundred and more: powers must neither overflow nor vanish
@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("frozen_image", [True, False])
def test_attention_of_tokens_over_cells(monkeypatch, scale: float, frozen_image: bool) -> None:
    image = drawn(6, 4, 30, learned=not frozen_image, scale=scale)
    values = drawn(6, 4, 30, learned=not frozen_image)
    both_forms(monkeypatch, kernels.tokens_to_cells, drawn(6, 5, 4, scale=scale), image, values)


@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("frozen_image", [True, False])
def test_attention_of_cells_over_tokens(monkeypatch, scale: float, frozen_image: bool) -> None:
    queries = drawn(6, 4, 30, learned=not frozen_image, scale=scale)
    keys, values = drawn(6, 3, 5, 4, scale=scale), drawn(6, 3, 5, 4)
    both_forms(monkeypatch, kernels.cells_to_tokens, queries, keys, values)


@pytest.mark.parametrize("groups", [1, 2])
def test_reading_the_image(monkeypatch, groups: int) -> None:
    cells = torch.stack([torch.randperm(30)[:7] for _ in range(groups)])
    queries, image, positions = drawn(4, 3, 8), drawn(4, 30, 8), drawn(8, 30, learned=False)
    both_forms(monkeypatch, lambda q, x: kernels.read_image(q, x, positions, cells), queries, image)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_products_with_frozen_weights(monkeypatch, residual: bool, transposed: bool) -> None:
    x = drawn(3, 64, 700) if transposed else drawn(3, 700, 64)
    weight, bias = drawn(48, 64, learned=False), drawn(48, learned=False)
    assert x.numel() * len(weight) >= kernels._WORTH_ONEDNN

    def product(x: Tensor, y: Tensor) -> Tensor:
        x = x.transpose(1, 2) if transposed else x
        return kernels.linear(x, weight, bias, y if residual else None) + 0 * y

    both_forms(monkeypatch, product, x, drawn(3, 700, 48, learned=residual))


def test_projections_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, constant = drawn(24, 16, learned=False), drawn(24, 50, learned=False)
    both_forms(monkeypatch, lambda x: kernels.project_cells(x, weight, constant), drawn(4, 50, 16))
