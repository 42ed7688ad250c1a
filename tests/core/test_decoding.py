"""The batched decoder gives the numbers and gradients of segment-anything's own call."""

from __future__ import annotations

import pytest
import torch
from tiny_sam import small_segmenter, tiny_segmenter

from ssprompt_core.models import framing
from ssprompt_core.models.decoding import decode_masks
from ssprompt_core.models.frozen import FrozenDecoder


def stock_logits(segmenter, embeddings_BDhw, tokens_CTD):
    """One stock call per image; the classes are its batch of prompts."""
    encoder, grid = segmenter.prompt_encoder, segmenter.grid_size
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    masks = [
        segmenter.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=tokens_CTD,
            dense_prompt_embeddings=dense.expand(len(tokens_CTD), -1, grid, grid),
            multimask_output=False,
        )[0][:, 0]
        for embedding in embeddings_BDhw
    ]
    return torch.stack(masks)


@pytest.fixture(params=["tiny", "small"])
def segmenter(request):
    return tiny_segmenter() if request.param == "tiny" else small_segmenter()


def problem(segmenter, images=3, classes=4, count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grid, dim = segmenter.grid_size, segmenter.embed_dim
    embeddings = torch.randn(images, dim, grid, grid, generator=generator)
    tokens = torch.randn(classes, count, dim, generator=generator)
    return embeddings, tokens.requires_grad_()


def stock_logits_together(segmenter, embeddings_BDhw, spatial_ND, semantic_CD):
    """All classes in one call of the stock modules, image by image, nothing shared or left out."""
    encoder, decoder = segmenter.prompt_encoder, segmenter.mask_decoder
    grid, classes = segmenter.grid_size, len(semantic_CD)
    tokens = torch.cat(
        [decoder.iou_token.weight, decoder.mask_tokens.weight[0] + semantic_CD, spatial_ND]
    )
    masks = []
    for embedding in embeddings_BDhw:
        source = embedding[None] + encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        out, image = decoder.transformer(source, encoder.get_dense_pe(), tokens[None])
        upscaled = decoder.output_upscaling(image.transpose(1, 2).view(1, -1, grid, grid))
        filters = decoder.output_hypernetworks_mlps[0](out[0, 1 : 1 + classes])
        masks.append(torch.einsum("ce,eyx->cyx", filters, upscaled[0]))
    return torch.stack(masks)


@pytest.mark.parametrize(("images", "classes", "count"), [(1, 1, 1), (3, 4, 7), (2, 5, 0)])
def test_masks_and_gradients_together_equal_those_of_the_stock_modules(
    segmenter, images, classes, count
):
    embeddings, tokens = problem(segmenter, images, classes, count + 1)
    spatial = tokens[0, :count].detach().requires_grad_()
    semantic = tokens[:, count].detach().requires_grad_()
    expected = stock_logits_together(segmenter, embeddings, spatial, semantic)
    found = segmenter.decode_together(embeddings, spatial, semantic)
    scale = float(expected.detach().std())
    assert scale > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4))
    wanted = torch.autograd.grad((expected * probe).sum(), (spatial, semantic))
    given = torch.autograd.grad((found * probe).sum(), (spatial, semantic))
    for gradient, reference in zip(given, wanted, strict=True):
        assert float((gradient - reference).norm()) <= 1e-5 * float(reference.norm())


@pytest.mark.parametrize(("images", "classes", "count"), [(1, 1, 1), (3, 4, 7), (2, 5, 2)])
def test_masks_equal_those_of_the_stock_call(segmenter, images, classes, count):
    embeddings, tokens = problem(segmenter, images, classes, count)
    with torch.no_grad():
        expected = stock_logits(segmenter, embeddings, tokens)
        found = segmenter.decode(embeddings, tokens)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.std()))


def test_gradients_equal_those_of_the_stock_call(segmenter):
    embeddings, tokens = problem(segmenter)
    probe = torch.randn(3, 4, 4 * segmenter.grid_size, 4 * segmenter.grid_size)
    (expected,) = torch.autograd.grad(
        (stock_logits(segmenter, embeddings, tokens) * probe).sum(), tokens
    )
    (found,) = torch.autograd.grad((segmenter.decode(embeddings, tokens) * probe).sum(), tokens)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_gradients_through_some_cells_equal_those_of_the_stock_call(segmenter):
    embeddings, tokens = problem(segmenter)
    grid = segmenter.grid_size
    cells = torch.tensor([1, grid, 2 * grid + 3])
    logits = stock_logits(segmenter, embeddings, tokens)
    blocks = logits.view(3, 4, grid, 4, grid, 4).transpose(3, 4).reshape(3, 4, -1, 4, 4)
    (expected,) = torch.autograd.grad(blocks[:, :, cells].square().sum(), tokens)
    some = segmenter.decode(embeddings, tokens, cells_P=cells)
    (found,) = torch.autograd.grad(some.square().sum(), tokens)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_gradients_are_right_by_finite_differences():
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter, images=2, classes=2, count=2)
    # stock positions are float32 whatever the weights are
    pe = segmenter.prompt_encoder.get_dense_pe()[0].double()
    segmenter.double()
    dense = segmenter.prompt_encoder.no_mask_embed.weight[0]
    cells = torch.tensor([3, 10])
    frozen = FrozenDecoder.of(segmenter.mask_decoder, pe, dense)
    images = frozen.freeze(embeddings.double())
    assert torch.autograd.gradcheck(
        lambda t: decode_masks(frozen, images, t, cells),
        tokens.detach().double().requires_grad_(),
        fast_mode=True,
    )


def test_chunks_without_gradient_change_nothing(monkeypatch):
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter, images=5)
    with torch.no_grad():
        whole = segmenter.decode(embeddings, tokens)
        for pairs in (1, 3, 8):
            monkeypatch.setitem(framing.MAX_PAIR_CELLS, "cpu", pairs * 36)
            chunked = segmenter.decode(embeddings, tokens)
            torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-6)


def test_images_and_classes_in_a_batch_equal_those_decoded_one_by_one(segmenter):
    embeddings, tokens = problem(segmenter, images=4, classes=5)
    with torch.no_grad():
        batch = segmenter.decode(embeddings, tokens)
        # 1e-5 on logits of order 1: random weights make smaller ones
        bound = 1e-5 * float(batch.abs().max())
        for image in range(4):
            for c in range(5):
                alone = segmenter.decode(embeddings[image : image + 1], tokens[c : c + 1])
                assert float((alone[0, 0] - batch[image, c]).abs().max()) <= bound


def test_bf16_runs_and_stays_near():
    segmenter = tiny_segmenter()
    embeddings, tokens = problem(segmenter)
    exact = segmenter.decode(embeddings, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = segmenter.decode(embeddings, tokens)
    rounded.float().square().mean().backward()
    assert float((rounded.float() - exact).norm() / exact.norm()) < 0.1
    assert torch.isfinite(tokens.grad).all()
