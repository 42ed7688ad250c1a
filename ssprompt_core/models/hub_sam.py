"""SAM, SAM-HQ, SAM 2 and SAM 3's tracker as frozen segmenters, over the `transformers` modules.

The mask decoders of `transformers` are SAM's: output tokens and prompts go through a two-way
transformer with the image, the image side is upscaled four times, and a small network of a mask
token gives the filter that makes its mask. Their own ``forward`` takes one embedding and point
coordinates a call, computes all mask tokens and, in SAM 2, picks one by thresholds; this one runs
the same, unmodified modules for mask token 0 of every class, batched over images and classes.

What a decoder needs of the image beyond the last embedding (``detail``) is kept in further channels
of the embedding: a feature map of twice the side as 4 channels, of four times the side as 16
(``pixel_unshuffle``), which loses nothing. Axis letters: B images, C classes, P = B * C pairs, T
tokens, D channels of a token, S cells, M masks of a sequence, E channels of a filter.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.models.framing import (
    decode_in_chunks,
    padded_frame,
    resize,
    upscale_padded,
)
from ssprompt_core.models.frozen import Images
from ssprompt_core.models.segmenter import Segmenter

_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a configuration that say where and by what it was written."""


def _lasting(text: str) -> dict[str, Any]:
    """A configuration without its volatile keys, at any depth."""

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if key not in _VOLATILE}

    found: dict[str, Any] = json.loads(text, object_pairs_hook=kept)
    return found


class HubSam(Segmenter):
    """Segment Anything (arXiv 2304.02643) from `transformers`, frozen.

    Args:
        model: A ``SamModel``.
        processor: Its image processor; images are prepared by it.
        name: Registry name.
    """

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self._processor = processor
        prompt_encoder = model.prompt_encoder
        self.embed_dim = int(prompt_encoder.hidden_size)
        self.image_channels = self.embed_dim
        self.grid_size = int(prompt_encoder.image_embedding_size[0])
        self.image_size = int(prompt_encoder.input_image_size)
        self.native_text = False
        self.text_dim = None
        self.freeze()

    def preprocessing(self) -> dict[str, Any]:
        """Constants of the preprocessing, for the fingerprint."""
        config = _lasting(self.model.config.to_json_string(use_diff=False))
        return {
            "processor": type(self._processor).__name__,
            **_lasting(self._processor.to_json_string()),
            # what an embedding depends on besides weights, such as windows and activations
            "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        }

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """Prepare an image as the model's own processor does, float32 ``[3, S, S]``."""
        pixels_13SS: Tensor = self._processor(
            images=image, return_tensors="pt", input_data_format="channels_last"
        )["pixel_values"]
        return pixels_13SS[0]

    @torch.no_grad()
    def encode_images(self, x_B3SS: Tensor) -> Tensor:
        """Embeddings and, behind them, detail, float ``[B, image_channels, h, w]``."""
        embeddings_BDhw: Tensor = self.model.get_image_embeddings(x_B3SS)
        return embeddings_BDhw

    def encode_points(self, xy_N2: Tensor, labels_N: Tensor | None = None) -> Tensor:
        """Embed points as the model's prompt encoder does, without its padding point, ``[N, D]``.

        Position (x, y) in [0, 1] is continuous: the centre of pixel (0, 0) is (0.5, 0.5) / S.
        """
        kind_2D = self._point_kinds()
        kind_ND = kind_2D[1] if labels_N is None else kind_2D[labels_N]
        # the frequencies do not survive 8 bits of mantissa
        with torch.autocast(xy_N2.device.type, enabled=False):
            tokens_ND: Tensor = self.model.prompt_encoder.shared_embedding(xy_N2.float()) + kind_ND
        return tokens_ND

    def _point_kinds(self) -> Tensor:
        """What is added to the position of a background and a foreground point, ``[2, D]``."""
        return torch.cat([self.model.prompt_encoder.point_embed[i].weight for i in (0, 1)])

    def decode(
        self, images: Images, tokens_CTD: Tensor, *, cells_P: Tensor | None = None
    ) -> Tensor:
        """Mask logits by the model's unmodified modules, one pass per class.

        Returns:
            ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``. Without gradient it works
            in chunks of bounded memory; with gradient the caller chooses the batch.
        """
        groups = self._mask_tokens()
        start = len(self._first_tokens())
        masks = []
        for group in groups:
            masks.append(slice(start, start + 1))
            start += len(group)
        output_tD = torch.cat([self._first_tokens(), *groups])

        def run(images: Images, tokens: Tensor) -> Tensor:
            prompt_CTD = torch.cat([output_tD.expand(len(tokens), -1, -1), tokens], dim=1)
            return self._decode(cast(Tensor, images), prompt_CTD, masks, cells_P)

        return decode_in_chunks(run, images, tokens_CTD, self.grid_size**2)

    def decode_together(
        self,
        images: Images,
        spatial_ND: Tensor,
        semantic_CD: Tensor,
        *,
        cells_P: Tensor | None = None,
    ) -> Tensor:
        """Mask logits of all classes in one pass, which no SAM was trained for.

        The output token of class ``c`` is mask token 0 plus the class's semantic prompt.

        Returns:
            As :meth:`decode`.
        """
        groups = [group[:1] + semantic_CD for group in self._mask_tokens()]
        start, C = len(self._first_tokens()), len(semantic_CD)
        masks = [slice(start + i * C, start + (i + 1) * C) for i in range(len(groups))]
        prompt_TD = torch.cat([self._first_tokens(), *groups, spatial_ND])

        def run(images: Images, prompt_1TD: Tensor) -> Tensor:
            return self._decode(cast(Tensor, images), prompt_1TD, masks, cells_P)

        return decode_in_chunks(run, images, prompt_TD[None], self.grid_size**2)

    def _first_tokens(self) -> Tensor:
        """Output tokens that make no mask and stand first, ``[L, D]``."""
        weight_1D: Tensor = self.model.mask_decoder.iou_token.weight
        return weight_1D

    def _mask_tokens(self) -> list[Tensor]:
        """Groups of mask tokens; the first token of each makes a mask, and the masks are added."""
        return [self.model.mask_decoder.mask_tokens.weight]

    def _filters(self) -> list[Any]:
        """The network of each group that turns its mask token into a filter."""
        return [self.model.mask_decoder.output_hypernetworks_mlps[0]]

    def _decode(
        self, packed_BXhw: Tensor, prompt_CTD: Tensor, masks: list[slice], cells_K: Tensor | None
    ) -> Tensor:
        """Logits of the tokens ``masks`` of each of ``C`` token sequences, in their order."""
        decoder = self.model.mask_decoder
        B, _, h, w = packed_BXhw.shape
        C, D = len(prompt_CTD), self.embed_dim
        image_BDhw, detail_BXhw = torch.tensor_split(packed_BXhw.detach(), [D], dim=1)
        dense_D11 = self.model.prompt_encoder.no_mask_embed.weight[0, :, None, None]
        with torch.no_grad(), torch.autocast(image_BDhw.device.type, enabled=False):
            image_pe_1Dhw = self.model.get_image_wide_positional_embeddings()
        # a pair is a batch item with a point batch of 1
        tokens_P1TD, image_P1SD = decoder.transformer(
            point_embeddings=prompt_CTD.expand(B, -1, -1, -1).flatten(0, 1)[:, None],
            image_embeddings=(image_BDhw + dense_D11).repeat_interleave(C, 0),
            image_positional_embeddings=image_pe_1Dhw,
            attention_similarity=None,
        )
        filters = [
            network(tokens_P1TD[:, 0, tokens])
            for network, tokens in zip(self._filters(), masks, strict=True)
        ]
        image_PDhw = image_P1SD[:, 0].transpose(1, 2).reshape(B * C, D, h, w)
        logits_PMyx = self._logits(image_PDhw, detail_BXhw, filters, cells_K)
        return logits_PMyx.reshape(B, -1, *logits_PMyx.shape[2:])

    def _logits(
        self,
        image_PDhw: Tensor,
        detail_BXhw: Tensor,
        filters: list[Tensor],
        cells_K: Tensor | None,
    ) -> Tensor:
        """Logits ``[P, M, 4h, 4w]``, or ``[P, M, K, 4, 4]`` of the asked-for cells alone.

        Both transposed convolutions have stride = kernel, so a cell's 4 x 4 logits depend on that
        cell alone, and asked-for cells are an image of ``K`` rows and one column.
        """
        (filter_PME,) = filters
        if cells_K is None:
            return _apply(filter_PME, self._upscale(image_PDhw, detail_BXhw))
        image_PDK1, detail_BXK1 = (
            x.flatten(2).index_select(2, cells_K)[..., None] for x in (image_PDhw, detail_BXhw)
        )
        logits_PMyx = _apply(filter_PME, self._upscale(image_PDK1, detail_BXK1))
        return logits_PMyx.view(*logits_PMyx.shape[:2], -1, 4, 4)

    def _upscale(self, image_PDyx: Tensor, detail_BXyx: Tensor) -> Tensor:
        """Upscale the image side four times, ``[P, E, 4y, 4x]``; SAM needs no detail."""
        decoder = self.model.mask_decoder
        x = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image_PDyx)))
        upscaled_PEyx: Tensor = decoder.activation(decoder.upscale_conv2(x))
        return upscaled_PEyx

    def valid_frame(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the logits whose centres lie on an image of this size."""
        return padded_frame(height, width, self.image_size, self.grid_size)

    def upscale_logits(self, logits_BCyx: Tensor, height: int, width: int) -> Tensor:
        """Upscale, remove the padding and resize as the processor's postprocessing does."""
        return upscale_padded(logits_BCyx, height, width, self.image_size)


class HubSamHq(HubSam):
    """SAM-HQ (arXiv 2306.01567) from `transformers`, frozen.

    Its logits are those of SAM's mask token 0 plus those of the high-quality token. The second
    come from an image side that is refined by convolutions and by features which depend on the
    image alone; those features are the detail, made once an image.

    The reference is the authors' decoder, which upscales the image side that the transformer gives
    back. ``SamHQMaskDecoder.forward`` of transformers 5.23 upscales the one that went in, with rows
    and columns swapped.
    """

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        super().__init__(model, processor, name=name)
        self.image_channels = self.embed_dim + 16 * int(
            model.mask_decoder.encoder_conv2.out_channels
        )

    @torch.no_grad()
    def encode_images(self, x_B3SS: Tensor) -> Tensor:
        """Embeddings and high-quality features, float ``[B, D + 2 D, h, w]``."""
        decoder = self.model.mask_decoder
        image_BDhw, intermediate = self.model.get_image_embeddings(x_B3SS)
        # features behind the first block with global attention
        early_BXhw = intermediate[0].permute(0, 3, 1, 2)
        x = decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(image_BDhw)))
        y = decoder.compress_vit_norm(decoder.compress_vit_conv1(early_BXhw))
        detail_BEyx = decoder.encoder_conv2(x) + decoder.compress_vit_conv2(decoder.activation(y))
        return torch.cat([image_BDhw, F.pixel_unshuffle(detail_BEyx, 4)], dim=1)

    def _mask_tokens(self) -> list[Tensor]:
        return [*super()._mask_tokens(), self.model.mask_decoder.hq_token.weight]

    def _filters(self) -> list[Any]:
        return [*super()._filters(), self.model.mask_decoder.hq_mask_mlp]

    def _logits(
        self,
        image_PDhw: Tensor,
        detail_BXhw: Tensor,
        filters: list[Tensor],
        cells_K: Tensor | None,
    ) -> Tensor:
        """Logits of the whole frame: 3 x 3 convolutions reach into the neighbouring cells."""
        decoder = self.model.mask_decoder
        coarse_PEyx = self._upscale(image_PDhw, detail_BXhw)
        x = decoder.activation(decoder.mask_norm(decoder.mask_conv1(coarse_PEyx)))
        fine_PEyx = decoder.mask_conv2(x) + _repeat(F.pixel_shuffle(detail_BXhw, 4), len(x))
        logits_PMyx = _apply(filters[0], coarse_PEyx) + _apply(filters[1], fine_PEyx)
        if cells_K is None:
            return logits_PMyx
        h, w = image_PDhw.shape[2:]
        logits_PMh4w4 = logits_PMyx.view(*logits_PMyx.shape[:2], h, 4, w, 4)
        return logits_PMh4w4.transpose(3, 4).flatten(2, 3).index_select(2, cells_K)


class HubSam2(HubSam):
    """SAM 2 and 2.1 (arXiv 2408.00714) and the tracker of SAM 3 on single images, frozen.

    Their decoder adds two feature maps of higher resolution while it upscales: the detail.
    ``Sam2MaskDecoder.forward`` may answer with another mask token where mask 0 is unstable
    (``dynamic_multimask_via_stability``); the logits here are always those of mask token 0, as
    classes compete by their logits and gradients need one token.

    An image is resized to the square without keeping its aspect, so it covers all logits.
    """

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        super().__init__(model, processor, name=name)
        decoder = model.mask_decoder
        self._fine_channels = 16 * int(decoder.conv_s0.out_channels)
        middle_channels = 4 * int(decoder.conv_s1.out_channels)
        self.image_channels = self.embed_dim + self._fine_channels + middle_channels

    @torch.no_grad()
    def encode_images(self, x_B3SS: Tensor) -> Tensor:
        """Embeddings and the maps of four times and twice the side, ``[B, D + 2 D + D, h, w]``."""
        fine_BEyx, middle_BXyx, image_BDhw = self.model.get_image_embeddings(x_B3SS)
        detail = [F.pixel_unshuffle(fine_BEyx, 4), F.pixel_unshuffle(middle_BXyx, 2)]
        return torch.cat([image_BDhw, *detail], dim=1)

    def _point_kinds(self) -> Tensor:
        kinds_2D: Tensor = self.model.prompt_encoder.point_embed.weight[:2]
        return kinds_2D

    def _first_tokens(self) -> Tensor:
        return torch.cat([self.model.mask_decoder.obj_score_token.weight, super()._first_tokens()])

    def _upscale(self, image_PDyx: Tensor, detail_BXyx: Tensor) -> Tensor:
        decoder, P = self.model.mask_decoder, len(image_PDyx)
        fine, middle = torch.tensor_split(detail_BXyx, [self._fine_channels], dim=1)
        x = decoder.upscale_conv1(image_PDyx) + _repeat(F.pixel_shuffle(middle, 2), P)
        x = decoder.upscale_conv2(decoder.activation(decoder.upscale_layer_norm(x)))
        upscaled_PEyx: Tensor = decoder.activation(x + _repeat(F.pixel_shuffle(fine, 4), P))
        return upscaled_PEyx

    def valid_frame(self, height: int, width: int) -> tuple[int, int]:
        """All rows and columns of the logits."""
        return 4 * self.grid_size, 4 * self.grid_size

    def logit_steps(self, height: int, width: int) -> tuple[float, float]:
        """Image rows and columns from one logit to the next; one scale for each axis."""
        return height / (4 * self.grid_size), width / (4 * self.grid_size)

    def upscale_logits(self, logits_BCyx: Tensor, height: int, width: int) -> Tensor:
        """Resize the whole frame to the image, as the processor's postprocessing does."""
        return resize(logits_BCyx, (height, width))


def _repeat(x_Bxyx: Tensor, P: int) -> Tensor:
    """Repeat what belongs to an image for each of its pairs."""
    return x_Bxyx.repeat_interleave(P // len(x_Bxyx), 0)


def _apply(filter_PME: Tensor, image_PEyx: Tensor) -> Tensor:
    """Product of filters and pixels, ``[P, M, y, x]``."""
    P, M, _ = filter_PME.shape
    return torch.bmm(filter_PME, image_PEyx.flatten(2)).view(P, M, *image_PEyx.shape[2:])
