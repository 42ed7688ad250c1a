"""Products and attentions of a frozen decoder, written for the CPU where that pays.

On the CPU and in float32 each function is an ``autograd.Function`` that does less than the same
words of torch would:

* products with frozen weights go to oneDNN where torch has it. Its float32 product uses all vector
  units of a processor; MKL's, which torch takes otherwise, does so on processors of Intel alone;
* an attention keeps ``2 ** (score - highest score)`` and divides the context by the sum, not the
  weights: the scores are written once and overwritten in place, and a power of two costs a third of
  torch's softmax. The backward pass needs the weights, the sum and the context, no more;
* every product of the backward pass is asked for in the layout that is fast, and nothing is
  computed for what is frozen.

Elsewhere (GPU, autocast, ``torch.compile``, other types) the same functions are plain torch: there
the libraries fuse by themselves. Both give the same numbers and gradients up to rounding.

Axis letters as in :mod:`ssprompt_core.models.decoding`; Z and Y are batches of heads.
"""

from __future__ import annotations

import math
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ENABLED = True
"""Whether the CPU forms are used at all; tests and benchmarks compare with False."""

_ONEDNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_WORTH_ONEDNN = 2**22
"""Multiplications from which the call of an ``autograd.Function`` costs less than it gains."""


def linear(
    x_XD: Tensor, weight_YD: Tensor, bias_Y: Tensor, residual_XY: Tensor | None = None
) -> Tensor:
    """``x W^T + b``, plus a residual, with a frozen weight and bias.

    Args:
        x_XD: Any number of leading axes; may be transposed in memory.
        weight_YD: Gets no gradient.
        bias_Y: Gets no gradient.
        residual_XY: Added to the result; differentiable.
    """
    worth = x_XD.numel() * len(weight_YD) >= _WORTH_ONEDNN
    if worth and _ONEDNN and x_XD.dtype == torch.float32 and _own_form(x_XD):
        result: Tensor = _Linear.apply(x_XD, weight_YD, bias_Y, residual_XY)
        return result
    y_XY = F.linear(x_XD, weight_YD, bias_Y)
    return y_XY if residual_XY is None else residual_XY + y_XY


def project_cells(
    image_XSD: Tensor, weight_YD: Tensor, constant_YS: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Three projections of each cell, ``W x + constant``, channels before cells.

    Args:
        image_XSD: Cells of an image.
        weight_YD: Three projections of ``I`` channels, one below the other; gets no gradient.
        constant_YS: Added; gets no gradient.

    Returns:
        ``[X, I, S]`` each.
    """
    if _ONEDNN and image_XSD.dtype == torch.float32 and _own_form(image_XSD):
        k, v, q = _ProjectCells.apply(image_XSD, weight_YD, constant_YS)
        return k, v, q
    weights = weight_YD.view(3, -1, weight_YD.shape[1])
    constants = constant_YS.view(3, -1, constant_YS.shape[1])
    k, v, q = (
        torch.baddbmm(constant, weight.expand(len(image_XSD), -1, -1), image_XSD.transpose(1, 2))
        for weight, constant in zip(weights, constants, strict=True)
    )
    return k, v, q


def tokens_to_cells(q_ZTd: Tensor, k_ZdS: Tensor, v_ZdS: Tensor) -> Tensor:
    """Softmax attention of tokens over cells, ``[Z, T, d]``."""
    if _own_form(q_ZTd):
        context: Tensor = _TokensToCells.apply(q_ZTd, k_ZdS, v_ZdS)
        return context
    scores_ZTS = torch.bmm(q_ZTd * q_ZTd.shape[-1] ** -0.5, k_ZdS)
    return torch.bmm(scores_ZTS.softmax(dim=-1), v_ZdS.transpose(1, 2))


def cells_to_tokens(q_ZdS: Tensor, k_ZCTd: Tensor, v_ZCTd: Tensor) -> Tensor:
    """Softmax attention of cells over the tokens of each of ``C`` classes, ``[Z, C, d, S]``."""
    if _own_form(k_ZCTd):
        context: Tensor = _CellsToTokens.apply(q_ZdS, k_ZCTd, v_ZCTd)
        return context
    Z, C, T, d = k_ZCTd.shape
    scores_ZXS = torch.bmm((k_ZCTd * d**-0.5).view(Z, C * T, d), q_ZdS)
    weights_YTS = scores_ZXS.view(Z * C, T, -1).softmax(dim=1)
    return torch.bmm(v_ZCTd.view(Z * C, T, d).transpose(1, 2), weights_YTS).view(Z, C, d, -1)


def read_image(
    q_PXD: Tensor, image_PSD: Tensor, pe_DS: Tensor, cells_GK: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention of a few queries over cells with their positions, and the asked-for cells.

    One function, as both send gradients to all cells.

    Args:
        q_PXD: Queries in the space of the cells, scaled.
        image_PSD: Keys (with their positions) and values.
        pe_DS: Positions; get no gradient.
        cells_GK: Cells of each group of pairs, or None for all.

    Returns:
        Weighted means of cells ``[P, X, D]`` and cells ``[P, K, D]``.
    """
    if _own_form(q_PXD) and cells_GK is not None:
        mean, picked = _ReadImage.apply(q_PXD, image_PSD, pe_DS, cells_GK)
        return mean, picked
    scores_PXS = torch.baddbmm(q_PXD @ pe_DS, q_PXD, image_PSD.transpose(1, 2))
    mean_PXD = torch.bmm(scores_PXS.softmax(dim=-1), image_PSD)
    return mean_PXD, image_PSD if cells_GK is None else _pick(image_PSD, cells_GK)


def _own_form(x: Tensor) -> bool:
    return (
        ENABLED
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _pick(image_PSD: Tensor, cells_GK: Tensor) -> Tensor:
    """The asked-for cells of each group of pairs, ``[P, K, D]``."""
    if len(cells_GK) == 1:
        return image_PSD.index_select(1, cells_GK[0])
    parts = torch.split(image_PSD, len(image_PSD) // len(cells_GK))
    return torch.cat([part.index_select(1, k) for part, k in zip(parts, cells_GK, strict=True)])


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_XD: Tensor, weight_YD: Tensor, bias_Y: Tensor, residual_XY: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight_YD)
        if residual_XY is None:
            return _onednn_linear(x_XD, weight_YD, bias_Y)
        y_XY: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x_XD, residual_XY, weight_YD, bias_Y, "add"
        )
        return y_XY

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_XY,), (weight_YD,) = grads, ctx.saved_tensors
        grad_XD = None
        if ctx.needs_input_grad[0]:
            grad_XD = _onednn_linear(grad_XY, weight_YD.t(), None)
        return grad_XD, None, None, grad_XY if ctx.needs_input_grad[3] else None


class _ProjectCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image_XSD: Tensor, weight_YD: Tensor, constant_YS: Tensor) -> Any:
        ctx.save_for_backward(weight_YD)
        X, S, _ = image_XSD.shape
        y_XS3I = _onednn_linear(image_XSD, weight_YD, None).view(X, S, 3, -1)
        out_3XIS = image_XSD.new_empty(3, X, y_XS3I.shape[-1], S)
        constant_31IS = constant_YS.view(3, 1, -1, S)
        torch.add(y_XS3I.permute(2, 0, 3, 1), constant_31IS, out=out_3XIS)
        return out_3XIS[0], out_3XIS[1], out_3XIS[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (weight_YD,) = ctx.saved_tensors
        X, I, S = grads[0].shape  # noqa: E741
        grad_XS3I = weight_YD.new_empty(X, S, 3, I)
        for i, grad_XIS in enumerate(grads):
            grad_XS3I[:, :, i].copy_(grad_XIS.transpose(1, 2))
        return _onednn_linear(grad_XS3I.flatten(2), weight_YD.t(), None), None, None


def _powers(scores: Tensor, axis: int) -> Tensor:
    """``2 ** (score - highest)`` along an axis, in place."""
    return scores.sub_(scores.amax(axis, keepdim=True)).exp2_()


class _TokensToCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_ZTd: Tensor, k_ZdS: Tensor, v_ZdS: Tensor) -> Tensor:
        scale = q_ZTd.shape[-1] ** -0.5
        power_ZTS = _powers(torch.bmm(q_ZTd * (scale / math.log(2)), k_ZdS), -1)
        sum_ZT1 = power_ZTS.sum(-1, keepdim=True)
        context_ZTd = torch.bmm(power_ZTS, v_ZdS.transpose(1, 2)).div_(sum_ZT1)
        ctx.save_for_backward(q_ZTd, k_ZdS, v_ZdS, power_ZTS, sum_ZT1, context_ZTd)
        return context_ZTd

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q_ZTd, k_ZdS, v_ZdS, power_ZTS, sum_ZT1, context_ZTd = ctx.saved_tensors
        needs_q, needs_k, needs_v = ctx.needs_input_grad
        scale = q_ZTd.shape[-1] ** -0.5
        grad_ZTd = grads[0] / sum_ZT1
        # the softmax's own share: the mean gradient of a token's weights
        mean_ZT1 = (grad_ZTd * context_ZTd).sum(-1, keepdim=True)
        grad_ZTS = torch.bmm(grad_ZTd, v_ZdS).sub_(mean_ZT1).mul_(power_ZTS)
        q = torch.bmm(grad_ZTS, k_ZdS.transpose(1, 2)).mul_(scale) if needs_q else None
        k = torch.bmm((q_ZTd * scale).transpose(1, 2), grad_ZTS) if needs_k else None
        v = torch.bmm(grad_ZTd.transpose(1, 2), power_ZTS) if needs_v else None
        return q, k, v


class _CellsToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_ZdS: Tensor, k_ZCTd: Tensor, v_ZCTd: Tensor) -> Tensor:
        Z, C, T, d = k_ZCTd.shape
        scaled_ZXd = (k_ZCTd * (d**-0.5 / math.log(2))).view(Z, C * T, d)
        power_YTS = _powers(torch.bmm(scaled_ZXd, q_ZdS).view(Z * C, T, -1), 1)
        sum_Y1S = power_YTS.sum(1, keepdim=True)
        v_YTd = v_ZCTd.reshape(Z * C, T, d)
        context_YdS = torch.bmm(v_YTd.transpose(1, 2), power_YTS).div_(sum_Y1S)
        ctx.save_for_backward(q_ZdS, k_ZCTd, v_YTd, power_YTS, sum_Y1S, context_YdS)
        return context_YdS.view(Z, C, d, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q_ZdS, k_ZCTd, v_YTd, power_YTS, sum_Y1S, context_YdS = ctx.saved_tensors
        needs_q, needs_k, needs_v = ctx.needs_input_grad
        Z, C, T, d = k_ZCTd.shape
        scale = d**-0.5
        grad_YdS = torch.empty_like(context_YdS)
        torch.div(grads[0], sum_Y1S.view(Z, C, 1, -1), out=grad_YdS.view(Z, C, d, -1))
        mean_Y1S = (grad_YdS * context_YdS).sum(1, keepdim=True)
        grad_YTS = torch.bmm(v_YTd, grad_YdS).sub_(mean_Y1S).mul_(power_YTS)
        grad_ZXS = grad_YTS.view(Z, C * T, -1)
        q = k = v = None
        if needs_q:
            q = torch.bmm((k_ZCTd * scale).view(Z, C * T, d).transpose(1, 2), grad_ZXS)
        if needs_k:
            k = torch.bmm(grad_ZXS, q_ZdS.transpose(1, 2)).mul_(scale).view(Z, C, T, d)
        if needs_v:
            v = torch.bmm(power_YTS, grad_YdS.transpose(1, 2)).view(Z, C, T, d)
        return q, k, v


class _ReadImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_PXD: Tensor, image_PSD: Tensor, pe_DS: Tensor, cells_GK: Tensor) -> Any:
        scores_PXS = torch.baddbmm(q_PXD @ pe_DS, q_PXD, image_PSD.transpose(1, 2))
        weights_PXS = scores_PXS.softmax(dim=-1)
        mean_PXD = torch.bmm(weights_PXS, image_PSD)
        ctx.save_for_backward(q_PXD, image_PSD, pe_DS, cells_GK, weights_PXS, mean_PXD)
        return mean_PXD, _pick(image_PSD, cells_GK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q_PXD, image_PSD, pe_DS, cells_GK, weights_PXS, mean_PXD = ctx.saved_tensors
        grad_PXD, picked_PKD = grads
        mean_PX1 = (grad_PXD * mean_PXD).sum(-1, keepdim=True)
        grad_PXS = torch.bmm(grad_PXD, image_PSD.transpose(1, 2)).sub_(mean_PX1).mul_(weights_PXS)
        grad_q_PXD = torch.bmm(grad_PXS, image_PSD).add_(grad_PXS @ pe_DS.t())
        # one product for the shares of keys and values
        tokens_PYD = torch.cat([q_PXD, grad_PXD], dim=1)
        weights_PYS = torch.cat([grad_PXS, weights_PXS], dim=1)
        grad_PSD = torch.bmm(weights_PYS.transpose(1, 2), tokens_PYD)
        pairs = len(grad_PSD) // len(cells_GK)
        for part, cells_K, share in zip(
            torch.split(grad_PSD, pairs), cells_GK, torch.split(picked_PKD, pairs), strict=True
        ):
            part.index_add_(1, cells_K, share)
        return grad_q_PXD, grad_PSD, None, None
