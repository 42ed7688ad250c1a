"""What a frozen promptable segmentation model must offer; each passes one contract test."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.models.frozen import FrozenImages, Images, take_images


class Segmenter(nn.Module, ABC):
    """A promptable segmenter in which everything is frozen.

    Parameters never require a gradient, the module stays in evaluation mode, and gradients flow
    through it to prompts only. Letters in names: B images, D channels, h = w grid of the image
    embedding, S side of the encoder's square input, C classes, T tokens of a class.

    Attributes:
        name: Registry name.
        embed_dim: Length ``D`` of a prompt token.
        image_channels: Channels of an image embedding; ``D`` unless the decoder needs more of the
            encoder than its last layer.
        grid_size: ``h = w`` of an image embedding.
        image_size: Side ``S`` of the square that the image encoder takes.
        native_text: Whether text embeddings of its own text encoder are prompt tokens already.
        text_dim: Length of those text embeddings; None without native text.
    """

    name: str
    embed_dim: int
    image_channels: int
    grid_size: int
    image_size: int
    native_text: bool
    text_dim: int | None

    def freeze(self) -> None:
        """Freeze all parameters; called once by the constructor of a segmenter."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: a frozen model has no training mode."""
        return self

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all weights and the preprocessing: the content key of embeddings."""
        digest = hashlib.sha256(json.dumps(self.preprocessing(), sort_keys=True).encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """The constants of :meth:`preprocess`, as JSON values; part of the fingerprint."""

    @abstractmethod
    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """Make the encoder's input of an RGB image, uint8 ``[H, W, 3]``.

        Returns:
            Float32 ``[3, S, S]``, normalised: the longest side resized to ``S`` and zeros at the
            right or bottom, or (SAM 2 and 3) both sides resized to ``S``.
        """

    @abstractmethod
    def encode_images(self, x_B3SS: Tensor) -> Tensor:
        """Image embeddings, float ``[B, image_channels, h, w]``, without gradient."""

    @abstractmethod
    def encode_points(self, xy_N2: Tensor, labels_N: Tensor | None = None) -> Tensor:
        """Embed points.

        Args:
            xy_N2: Positions (x, y) in [0, 1] of the encoder's square; differentiable.
            labels_N: 1 for foreground, 0 for background, int64; None means all 1.

        Returns:
            Tokens, float32 ``[N, D]``.
        """

    def freeze_images(self, embeddings_BDhw: Embeddings) -> FrozenImages | None:
        """Images with what decoding computes of them whatever the prompts, for many steps on them.

        Args:
            embeddings_BDhw: Image embeddings.

        Returns:
            Images on the segmenter's device that every decoding function takes in the embeddings'
            place, with the same logits; or None, where the segmenter has nothing to prepare or it
            would take more memory than :data:`ssprompt_core.models.frozen.MAX_FROZEN_BYTES`. They
            are worth nothing once the segmenter's weights, type or device changes.
        """
        return None

    def compile_decoder(self, wanted: bool) -> None:
        """Say whether decoding with gradient goes through ``torch.compile``.

        A segmenter may have nothing to compile; the numbers are the same up to rounding.
        """
        return

    @abstractmethod
    def decode(
        self, images: Images, tokens_CTD: Tensor, *, cells_P: Tensor | None = None
    ) -> Tensor:
        """Mask logits of each class on each image, one decoder pass per class.

        Args:
            images: Image embeddings ``[B, image_channels, h, w]`` or images from
                :meth:`freeze_images`; they get no gradient.
            tokens_CTD: Prompt tokens of each class, shared by the images; differentiable.
            cells_P: Flat indices of embedding cells in ``[0, h * w)``, int64, where only a part
                of the logits is needed.

        Returns:
            Logits ``[B, C, 4h, 4w]``; with ``cells_P`` ``[B, C, P, 4, 4]``, the same numbers.
        """

    @abstractmethod
    def decode_together(
        self,
        images: Images,
        spatial_ND: Tensor,
        semantic_CD: Tensor,
        *,
        cells_P: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of all classes in ONE decoder pass: fast, but not what SAM was trained for.

        Args:
            images: As in :meth:`decode`.
            spatial_ND: Prompt tokens that all classes share; differentiable.
            semantic_CD: One token of each class; differentiable.
            cells_P: As in :meth:`decode`.

        Returns:
            As :meth:`decode`.
        """

    def decode_groups(
        self,
        images: Images,
        tokens_GCTD: Tensor,
        cells_GP: Tensor,
        *,
        one_pass: bool,
    ) -> Tensor:
        """Mask logits of groups of images, each with prompts and cells of its own.

        Group by group unless overridden; the numbers are those of :meth:`decode` and
        :meth:`decode_together` up to rounding.

        Args:
            images: As in :meth:`decode`, of ``G`` groups: with the axes ``[G, B, ..]``.
            tokens_GCTD: Prompt tokens of each class; differentiable. For ``one_pass`` the last
                token is the class's own and the others are the same for all classes.
            cells_GP: Flat indices of embedding cells, int64.
            one_pass: Whether all classes take one decoder pass, as in :meth:`decode_together`.

        Returns:
            ``[G, B, C, P, 4, 4]``.
        """
        logits = []
        for group, (tokens, cells) in enumerate(zip(tokens_GCTD, cells_GP, strict=True)):
            own = take_images(images, group)
            if one_pass:
                spatial_ND, semantic_CD = tokens[0, :-1], tokens[:, -1]
                logits.append(self.decode_together(own, spatial_ND, semantic_CD, cells_P=cells))
            else:
                logits.append(self.decode(own, tokens, cells_P=cells))
        return torch.stack(logits)

    @abstractmethod
    def valid_frame(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the ``4h x 4w`` logits that an image of this size covers.

        Counts pixels whose centre lies on the image; the rest is padding.
        """

    def logit_steps(self, height: int, width: int) -> tuple[float, float]:
        """Image rows and columns from one logit to the next.

        One number for both where the longest side fills the logits, as it does unless overridden.
        """
        step = max(height, width) / (4 * self.grid_size)
        return step, step

    @abstractmethod
    def upscale_logits(self, logits_BCyx: Tensor, height: int, width: int) -> Tensor:
        """Bring logits ``[B, C, 4h, 4w]`` to an image's own size, ``[B, C, height, width]``."""
