"""Segment Anything as a frozen segmenter, over segment-anything's own modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.models.compiling import compiled
from ssprompt_core.models.decoding import decode_masks, decode_masks_together
from ssprompt_core.models.framing import decode_in_chunks, padded_frame, upscale_padded
from ssprompt_core.models.frozen import (
    MAX_FROZEN_BYTES,
    FrozenCache,
    FrozenDecoder,
    FrozenImages,
    Images,
)
from ssprompt_core.models.segmenter import Segmenter


class SamSegmenter(Segmenter):
    """Segment Anything (arXiv 2304.02643), frozen.

    Args:
        sam: A module with segment-anything's ``image_encoder``, ``prompt_encoder`` and
            ``mask_decoder``, and the buffers ``pixel_mean`` and ``pixel_std``; a
            ``segment_anything.modeling.Sam`` is one.
        name: Registry name.
        native_text: Whether text embeddings of length ``D`` serve as prompt tokens.
    """

    def __init__(self, sam: Any, *, name: str, native_text: bool = False) -> None:
        super().__init__()
        self.name = name
        self.image_encoder: nn.Module = sam.image_encoder
        self.prompt_encoder: Any = sam.prompt_encoder
        self.mask_decoder: nn.Module = sam.mask_decoder
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", sam.pixel_mean.detach().clone().view(3, 1, 1), False)
        self.register_buffer("pixel_std", sam.pixel_std.detach().clone().view(3, 1, 1), False)
        self.embed_dim = int(self.prompt_encoder.embed_dim)
        self.image_channels = self.embed_dim
        self.grid_size = int(self.prompt_encoder.image_embedding_size[0])
        self.image_size = int(self.prompt_encoder.input_image_size[0])
        self.native_text = native_text
        self.text_dim = self.embed_dim if native_text else None
        self.freeze()
        self._compile = False
        self._frozen_decoder = FrozenCache(self.mask_decoder, self.prompt_encoder)

    def preprocessing(self) -> dict[str, Any]:
        """Constants of the preprocessing, for the fingerprint."""
        return {
            "resize": "longest side, PIL bilinear",
            "image_size": self.image_size,
            "pixel_mean": self.pixel_mean.flatten().tolist(),
            "pixel_std": self.pixel_std.flatten().tolist(),
        }

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize, normalise and pad as ``SamPredictor.set_image`` does, float32 ``[3, S, S]``."""
        resized = ResizeLongestSide(self.image_size).apply_image(image)
        # on the CPU whatever the device of the weights: pictures are read there
        x_3yx = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        x_3yx = (x_3yx - self.pixel_mean.cpu()) / self.pixel_std.cpu()
        rows, columns = x_3yx.shape[1:]
        return F.pad(x_3yx, (0, self.image_size - columns, 0, self.image_size - rows))

    @torch.no_grad()
    def encode_images(self, x_B3SS: Tensor) -> Tensor:
        """Image embeddings, float ``[B, D, h, w]``, without gradient."""
        embeddings_BDhw: Tensor = self.image_encoder(x_B3SS)
        return embeddings_BDhw

    def encode_points(self, xy_N2: Tensor, labels_N: Tensor | None = None) -> Tensor:
        """Embed points as the stock prompt encoder does, without its padding point, ``[N, D]``.

        Position (x, y) in [0, 1] is continuous: the centre of pixel (0, 0) is (0.5, 0.5) / S.
        """
        encoder = self.prompt_encoder
        kind_2D = torch.cat([encoder.point_embeddings[i].weight for i in (0, 1)])
        kind_ND = kind_2D[1] if labels_N is None else kind_2D[labels_N]
        # frequencies of half a million radians would not survive 8 bits of mantissa
        with torch.autocast(xy_N2.device.type, enabled=False):
            size = (self.image_size, self.image_size)
            position_ND = encoder.pe_layer.forward_with_coords(
                xy_N2[None].float() * self.image_size, size
            )[0]
            tokens_ND: Tensor = position_ND + kind_ND
        return tokens_ND

    def freeze_images(self, embeddings_BDhw: Embeddings) -> FrozenImages | None:
        """What layer 1 of the decoder makes of images whatever the prompts."""
        frozen = self._decoder()
        weights, count = frozen.pe_DS, len(embeddings_BDhw)
        limit = MAX_FROZEN_BYTES.get(weights.device.type, 2**28)
        if not 0 < count * frozen.image_bytes() <= limit:
            return None
        # in pieces, since the embeddings may be memory-mapped
        pieces = [
            frozen.freeze(embeddings_BDhw[start : start + 8].to(weights.device, weights.dtype))
            for start in range(0, count, 8)
        ]
        return FrozenImages.of(pieces, torch.cat)

    def decode(
        self, images: Images, tokens_CTD: Tensor, *, cells_P: Tensor | None = None
    ) -> Tensor:
        """Mask logits by SAM's unmodified mask decoder, one pass per class.

        Returns:
            ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``. Without gradient it works
            in chunks of bounded memory; with gradient the caller chooses the batch.
        """
        frozen = self._decoder()

        def run(images: Images, tokens: Tensor) -> Tensor:
            return self._form(decode_masks)(frozen, _prepared(frozen, images), tokens, cells_P)

        return decode_in_chunks(run, images, tokens_CTD, self.grid_size**2)

    def decode_together(
        self,
        images: Images,
        spatial_ND: Tensor,
        semantic_CD: Tensor,
        *,
        cells_P: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of all classes in one pass; see :func:`decode_masks_together`."""
        frozen = self._decoder()

        def run(images: Images, _: Tensor) -> Tensor:
            prepared = _prepared(frozen, images)
            decode = self._form(decode_masks_together)
            return decode(frozen, prepared, spatial_ND, semantic_CD, cells_P)

        return decode_in_chunks(run, images, spatial_ND[None], self.grid_size**2)

    def decode_groups(
        self,
        images: Images,
        tokens_GCTD: Tensor,
        cells_GP: Tensor,
        *,
        one_pass: bool,
    ) -> Tensor:
        """Mask logits of groups of images in one go; the caller bounds the memory."""
        frozen = self._decoder()
        groups = images.image.shape[:2] if isinstance(images, FrozenImages) else images.shape[:2]
        joined = images.joined() if isinstance(images, FrozenImages) else images.flatten(0, 1)
        prepared = _prepared(frozen, joined)
        if one_pass:
            spatial_GND, semantic_GCD = tokens_GCTD[:, 0, :-1], tokens_GCTD[:, :, -1]
            decode = self._form(decode_masks_together)
            logits = decode(frozen, prepared, spatial_GND, semantic_GCD, cells_GP)
        else:
            logits = self._form(decode_masks)(frozen, prepared, tokens_GCTD, cells_GP)
        return logits.view(*groups, *logits.shape[1:])

    def compile_decoder(self, wanted: bool) -> None:
        """Train through a compiled decoder, or no longer."""
        self._compile = wanted

    def _form(self, decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # without gradient shapes change from call to call, and each would be compiled anew
        return compiled(decode) if self._compile and torch.is_grad_enabled() else decode

    def _decoder(self) -> FrozenDecoder:
        """The decoder with what its present weights alone decide."""
        return self._frozen_decoder.get(self._freeze_decoder)

    def _freeze_decoder(self) -> FrozenDecoder:
        dense_D = self.prompt_encoder.no_mask_embed.weight[0]
        with torch.no_grad(), torch.autocast(dense_D.device.type, enabled=False):
            image_pe_Dhw = self.prompt_encoder.get_dense_pe()[0].to(dense_D)
        return FrozenDecoder.of(self.mask_decoder, image_pe_Dhw, dense_D)

    def valid_frame(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the logits whose centres lie on an image of this size."""
        return padded_frame(height, width, self.image_size, self.grid_size)

    def upscale_logits(self, logits_BCyx: Tensor, height: int, width: int) -> Tensor:
        """Upscale, remove the padding and resize as ``Sam.postprocess_masks`` does."""
        return upscale_padded(logits_BCyx, height, width, self.image_size)


def _prepared(frozen: FrozenDecoder, images: Images) -> FrozenImages:
    return images if isinstance(images, FrozenImages) else frozen.freeze(images)
