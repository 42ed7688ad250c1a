"""What of decoding depends on frozen weights and images alone: made once, not in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssprompt_core.models.kernels import project_cells

MAX_FROZEN_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Memory that the prepared images of one fit may take; beyond it every step prepares its own."""


@dataclass(frozen=True)
class FrozenImages:
    """Image sides as layer 1 of a decoder takes them; each tensor begins with the images' axes.

    Made by :meth:`ssprompt_core.models.segmenter.Segmenter.freeze_images`, on the device and in the
    type of the weights at that time; they are of no use to weights that have changed.

    Attributes:
        image: Cells with the dense prompt, ``[.., S, D]``.
        key: Keys for the tokens, ``[.., I, S]``.
        value: Values for the tokens, ``[.., I, S]``.
        query: Queries to the tokens, ``[.., I, S]``.
    """

    image: Tensor
    key: Tensor
    value: Tensor
    query: Tensor

    def __len__(self) -> int:
        """Number of images, or of groups."""
        return len(self.image)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.image.device

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors."""
        return self.image, self.key, self.value, self.query

    def take(self, index: Tensor | slice | int) -> FrozenImages:
        """Some of the images; an index with several axes makes groups."""
        return FrozenImages(*(part[index] for part in self.parts()))

    def joined(self) -> FrozenImages:
        """Groups of images as one batch."""
        return FrozenImages(*(part.flatten(0, 1) for part in self.parts()))

    @classmethod
    def of(cls, several: Sequence[FrozenImages], join: Callable[..., Tensor]) -> FrozenImages:
        """Several of them, part by part through ``torch.cat`` or ``torch.stack``."""
        parts = zip(*(images.parts() for images in several), strict=True)
        return cls(*(join(tensors) for tensors in parts))


Images = Tensor | FrozenImages
"""Image embeddings ``[.., D, h, w]``, or the same images prepared."""


def take_images(images: Images, index: Tensor | slice | int) -> Images:
    """Some of the images; index as for :meth:`FrozenImages.take`."""
    return images.take(index) if isinstance(images, FrozenImages) else images[index]


def stack_images(images: Sequence[Images]) -> Images | None:
    """Groups of equally many images as ``[G, B, ..]``; None where only some are prepared."""
    frozen = [x for x in images if isinstance(x, FrozenImages)]
    if len(frozen) == len(images):
        return FrozenImages.of(frozen, torch.stack)
    if frozen:
        return None
    return torch.stack([x for x in images if isinstance(x, Tensor)])


@dataclass(frozen=True)
class FrozenLayer:
    """The projections of a layer's image side, joined into one product.

    Attributes:
        weight: Keys and values for the tokens, then queries to the tokens, ``[3 I, D]``.
        constant: ``W pe + b`` (for values ``b``) of every cell, ``[3 I, S]``.
    """

    weight: Tensor
    constant: Tensor


@dataclass(frozen=True)
class FrozenDecoder:
    """A mask decoder with what its weights alone decide.

    Attributes:
        modules: The ``segment_anything`` ``MaskDecoder``.
        grid: Rows and columns of the embedding.
        pe_DS: Positional encoding of the cells.
        dense_D: Dense prompt of a call without a mask.
        output_tD: The output tokens: IoU token, then mask tokens.
        layers: One for each layer of the transformer.
        upscaling: Weight ``[4 E, D]`` and bias ``[4 E]`` of both transposed convolutions.
    """

    modules: Any
    grid: tuple[int, int]
    pe_DS: Tensor
    dense_D: Tensor
    output_tD: Tensor
    layers: tuple[FrozenLayer, ...]
    upscaling: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    @torch.no_grad()
    def of(cls, decoder: Any, image_pe_Dhw: Tensor, dense_D: Tensor) -> FrozenDecoder:
        """Prepare a decoder.

        Args:
            decoder: A ``segment_anything`` ``MaskDecoder`` with a ``TwoWayTransformer``.
            image_pe_Dhw: Positional encoding of the cells (``PromptEncoder.get_dense_pe()[0]``).
            dense_D: Dense prompt of a call without a mask (``PromptEncoder.no_mask_embed``).
        """
        pe_DS = image_pe_Dhw.flatten(1)
        with torch.autocast(pe_DS.device.type, enabled=False):
            return cls(
                modules=decoder,
                grid=(image_pe_Dhw.shape[1], image_pe_Dhw.shape[2]),
                pe_DS=pe_DS,
                dense_D=dense_D,
                output_tD=torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]),
                layers=tuple(_frozen_layer(x, pe_DS) for x in decoder.transformer.layers),
                upscaling=tuple(_upscaling(decoder.output_upscaling[i]) for i in (0, 3)),
            )

    @torch.no_grad()
    def freeze(self, image_BDhw: Tensor) -> FrozenImages:
        """Prepare images: the part of layer 1 that no prompt changes."""
        image_BSD = (image_BDhw + self.dense_D[:, None, None]).flatten(2).transpose(1, 2)
        image_BSD = image_BSD.contiguous()
        layer = self.layers[0]
        return FrozenImages(image_BSD, *project_cells(image_BSD, layer.weight, layer.constant))

    def image_bytes(self) -> int:
        """Memory of one prepared image."""
        D, S = self.pe_DS.shape
        return (D + len(self.layers[0].weight)) * S * self.pe_DS.element_size()


def _frozen_layer(layer: Any, pe_DS: Tensor) -> FrozenLayer:
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    projections = (to_image.k_proj, to_image.v_proj, to_tokens.q_proj)
    constants = [
        x.bias[:, None].expand(-1, pe_DS.shape[1])
        if x is to_image.v_proj
        else torch.addmm(x.bias[:, None], x.weight, pe_DS)
        for x in projections
    ]
    return FrozenLayer(torch.cat([x.weight for x in projections]), torch.cat(constants))


def _upscaling(convolution: Any) -> tuple[Tensor, Tensor]:
    """A 2 x 2 transposed convolution of stride 2 as a product ``[.., D]`` -> ``[.., 2, 2, E]``."""
    weight_YD = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return weight_YD, convolution.bias.repeat(4)


class FrozenCache:
    """Keeps a value that was made of the weights of modules, and makes it anew when they change.

    Frozen weights do not learn, but a model is moved between devices and types, and loads other
    weights. Each tensor is known by its memory and by torch's count of changes in place; the old
    memory is held, so that no new tensor can lie in its place. Changes through ``.data`` are not
    seen.

    Args:
        modules: What the value is made of.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._slots = [
            (slots, name)
            for root in modules
            for module in root.modules()
            for slots in (module._parameters, module._buffers)
            for name in slots
            if slots[name] is not None
        ]
        self._known: list[tuple[int, int]] = []
        self._held: list[Tensor] = []
        self._value: FrozenDecoder | None = None

    def get(self, make: Any) -> FrozenDecoder:
        """The kept value, or what ``make()`` gives."""
        tensors = [x for slots, name in self._slots if (x := slots[name]) is not None]
        known = [(x.data_ptr(), x._version) for x in tensors]
        if self._value is None or known != self._known:
            self._value = make()
            self._known, self._held = known, [x.detach() for x in tensors]
        return self._value
