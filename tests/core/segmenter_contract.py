"""What every frozen segmenter must do: a new one proves itself by subclassing the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_sam import random_images

from ssprompt_core.models.segmenter import Segmenter

SIZES = [(96, 96), (50, 97), (130, 64), (7, 300)]


class SegmenterContract:
    """Subclass it and give the fixture ``segmenter``."""

    keeps_aspect = True
    """False for a segmenter that resizes both sides of an image to its square."""

    @pytest.fixture
    def segmenter(self) -> Segmenter:
        raise NotImplementedError

    @pytest.fixture
    def embeddings(self, segmenter):
        inputs = [segmenter.preprocess(image) for image in random_images(2)]
        return segmenter.encode_images(torch.stack(inputs))

    @pytest.fixture
    def tokens(self, segmenter):
        generator = torch.Generator().manual_seed(1)
        return torch.randn(3, 5, segmenter.embed_dim, generator=generator, requires_grad=True)

    @pytest.fixture
    def semantic(self, segmenter):
        """One token of each of three classes, for decoding them together."""
        generator = torch.Generator().manual_seed(3)
        return torch.randn(3, segmenter.embed_dim, generator=generator, requires_grad=True)

    def test_embeddings_have_the_stated_form_and_no_graph(self, segmenter, embeddings):
        grid = segmenter.grid_size
        assert embeddings.shape == (2, segmenter.image_channels, grid, grid)
        assert segmenter.image_channels >= segmenter.embed_dim
        assert not embeddings.requires_grad
        assert torch.isfinite(embeddings).all()

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_inputs_are_squares_filled_or_padded_with_zeros(self, segmenter, height, width):
        x_3SS = segmenter.preprocess(random_images(1, height, width)[0])
        side = segmenter.image_size
        assert x_3SS.shape == (3, side, side)
        assert x_3SS.dtype == torch.float32
        longest = max(height, width)
        rows = round(side * height / longest) if self.keeps_aspect else side
        columns = round(side * width / longest) if self.keeps_aspect else side
        assert (x_3SS[:, rows + 1 :] == 0).all()
        assert (x_3SS[:, :, columns + 1 :] == 0).all()
        assert (x_3SS[:, : rows - 1, : columns - 1] != 0).any(0).float().mean() > 0.9

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_the_valid_frame_covers_the_image(self, segmenter, height, width):
        rows, columns = segmenter.valid_frame(height, width)
        frame = 4 * segmenter.grid_size
        assert max(rows, columns) == frame
        longest = max(height, width)
        down = height / longest if self.keeps_aspect else 1
        across = width / longest if self.keeps_aspect else 1
        assert rows == pytest.approx(frame * down, abs=1.01)
        assert columns == pytest.approx(frame * across, abs=1.01)
        logits = torch.zeros(1, 2, frame, frame)
        assert segmenter.upscale_logits(logits, height, width).shape == (1, 2, height, width)

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_a_step_between_logits_lands_on_the_same_pixels_as_upscaling(
        self, segmenter, height, width
    ):
        # a ramp of logit indices, upscaled, says where each image pixel lies among the logits
        frame = 4 * segmenter.grid_size
        ramp = torch.arange(frame, dtype=torch.float32) + 0.5
        logits = torch.stack([ramp[:, None].expand(-1, frame), ramp.expand(frame, -1)])[None]
        upscaled = segmenter.upscale_logits(logits, height, width)[0]
        down, across = segmenter.logit_steps(height, width)
        for found, step, size in (
            (upscaled[0, :, 0], down, height),
            (upscaled[1, 0], across, width),
        ):
            centres = (torch.arange(size) + 0.5) / step
            # bilinear resizing is flat within half a source pixel of a border, and the resized
            # image has a whole number of pixels
            inner = (centres > 1) & (centres < centres[-1] - 1)
            torch.testing.assert_close(found[inner], centres[inner], rtol=0.04, atol=0.1)

    def test_upscaling_leaves_the_padding_out(self, segmenter):
        frame = 4 * segmenter.grid_size
        rows, _ = segmenter.valid_frame(frame // 2, frame)
        assert rows == (frame // 2 if self.keeps_aspect else frame)
        logits = torch.zeros(1, 1, frame, frame)
        logits[:, :, rows + 1 :] = 1e6
        assert segmenter.upscale_logits(logits, frame // 2, frame)[..., :-4, :].abs().max() == 0

    def test_points_are_differentiable_in_their_position(self, segmenter):
        xy = torch.rand(4, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
        tokens = segmenter.encode_points(xy)
        assert tokens.shape == (4, segmenter.embed_dim)
        tokens.square().sum().backward()
        (gradient,) = torch.autograd.grad((segmenter.encode_points(xy) ** 3).sum(), xy)
        assert (gradient != 0).all()
        background = segmenter.encode_points(xy, torch.zeros(4, dtype=torch.long))
        assert not torch.allclose(tokens, background)
        assert torch.equal(tokens, segmenter.encode_points(xy, torch.ones(4, dtype=torch.long)))

    def test_logits_of_some_cells_are_those_of_the_whole_frame(self, segmenter, embeddings, tokens):
        grid = segmenter.grid_size
        whole = segmenter.decode(embeddings, tokens)
        assert whole.shape == (2, 3, 4 * grid, 4 * grid)
        cells = torch.tensor([0, grid - 1, grid + 2, grid * grid - 1])
        some = segmenter.decode(embeddings, tokens, cells_P=cells)
        assert some.shape == (2, 3, 4, 4, 4)
        for number, cell in enumerate(cells.tolist()):
            row, column = divmod(cell, grid)
            block = whole[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            torch.testing.assert_close(some[:, :, number], block, rtol=1e-4, atol=1e-5)

    def test_classes_and_images_do_not_mix(self, segmenter, embeddings, tokens):
        together = segmenter.decode(embeddings, tokens)
        alone = segmenter.decode(embeddings[1:], tokens[2:])
        torch.testing.assert_close(together[1:, 2:], alone, rtol=1e-4, atol=1e-5)

    def test_decoding_without_gradient_gives_the_same(self, segmenter, embeddings, tokens):
        with torch.no_grad():
            quiet = segmenter.decode(embeddings, tokens)
        torch.testing.assert_close(
            quiet, segmenter.decode(embeddings, tokens), rtol=1e-4, atol=1e-5
        )

    def test_gradients_reach_every_token_and_no_weight(self, segmenter, embeddings, tokens):
        segmenter.decode(embeddings, tokens).square().mean().backward()
        assert (tokens.grad.abs().sum(-1) > 0).all()
        assert all(p.grad is None and not p.requires_grad for p in segmenter.parameters())

    def test_numbers_do_not_depend_on_the_batch(self, segmenter, tokens, semantic):
        images = random_images(5, 60, 91)
        x_B3SS = torch.stack([segmenter.preprocess(image) for image in images])
        together = segmenter.encode_images(x_B3SS)
        for size in (1, 2, 3):
            some = segmenter.encode_images(x_B3SS[:size])
            assert float((some - together[:size]).abs().max()) <= 1e-5 * float(together.std())
        for decode in (
            lambda embeddings: segmenter.decode(embeddings, tokens),
            lambda embeddings: segmenter.decode_together(embeddings, tokens[0], semantic),
        ):
            for gradient in (True, False):
                with torch.set_grad_enabled(gradient):
                    whole = decode(together).detach()
                    # 1e-5 on logits of order 1: random weights make smaller ones
                    bound = 1e-5 * float(whole.abs().max())
                    for size in (1, 2, 3):
                        for start in range(5 - size + 1):
                            part = decode(together[start : start + size]).detach()
                            difference = part - whole[start : start + size]
                            assert float(difference.abs().max()) <= bound

    def test_logits_of_all_classes_together_have_the_form_of_those_one_by_one(
        self, segmenter, embeddings, tokens, semantic
    ):
        grid = segmenter.grid_size
        whole = segmenter.decode_together(embeddings, tokens[0], semantic)
        assert whole.shape == (2, 3, 4 * grid, 4 * grid)
        cells = torch.tensor([0, grid - 1, grid + 2, grid * grid - 1])
        some = segmenter.decode_together(embeddings, tokens[0], semantic, cells_P=cells)
        blocks = whole.view(2, 3, grid, 4, grid, 4).transpose(3, 4).flatten(2, 3)[:, :, cells]
        torch.testing.assert_close(some, blocks, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            quiet = segmenter.decode_together(embeddings, tokens[0], semantic)
        torch.testing.assert_close(quiet, whole, rtol=1e-4, atol=1e-5)

    def test_one_class_together_is_not_told_apart_by_its_place(
        self, segmenter, embeddings, tokens, semantic
    ):
        order = torch.tensor([2, 0, 1])
        whole = segmenter.decode_together(embeddings, tokens[0], semantic)
        moved = segmenter.decode_together(embeddings, tokens[0].flip(0), semantic[order])
        torch.testing.assert_close(moved, whole[:, order], rtol=1e-4, atol=1e-5)

    def test_gradients_together_reach_every_token_and_no_weight(
        self, segmenter, embeddings, tokens, semantic
    ):
        segmenter.decode_together(embeddings, tokens[0], semantic).square().mean().backward()
        assert (tokens.grad[0].abs().sum(-1) > 0).all()
        assert (semantic.grad.abs().sum(-1) > 0).all()
        assert all(p.grad is None and not p.requires_grad for p in segmenter.parameters())

    def test_the_image_gets_no_gradient(self, segmenter, embeddings, tokens, semantic):
        embeddings = embeddings.clone().requires_grad_()
        segmenter.decode(embeddings, tokens).sum().backward()
        segmenter.decode_together(embeddings, tokens[0], semantic).sum().backward()
        assert embeddings.grad is None

    def test_it_has_no_training_mode(self, segmenter):
        segmenter.train()
        assert not any(module.training for module in segmenter.modules())

    def test_the_fingerprint_knows_every_weight(self, segmenter):
        before = segmenter.fingerprint
        assert len(before) == 64
        assert before == segmenter.fingerprint
        del segmenter.fingerprint
        parameter = list(segmenter.parameters())[-1]
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        changed = segmenter.fingerprint
        assert changed != before
        with torch.no_grad():
            parameter.copy_(kept)
        del segmenter.fingerprint
        assert segmenter.fingerprint == before

    def test_equal_images_get_equal_embeddings(self, segmenter):
        x = torch.stack([segmenter.preprocess(random_images(1)[0])])
        first, second = segmenter.encode_images(x), segmenter.encode_images(x)
        assert np.array_equal(first.numpy(), second.numpy())
