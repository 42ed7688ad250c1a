"""What methods without a decoder share: they classify embedding cells one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssprompt_core.data.embeddings import Embeddings


def upscale_cells(logits_BChw: Tensor, cells_P: Tensor | None) -> Tensor:
    """Resize logits of cells bilinearly to the frame of mask logits.

    Args:
        logits_BChw: One logit per class and embedding cell.
        cells_P: Flat indices of the cells that are wanted; None asks for all.

    Returns:
        ``[B, C, 4h, 4w]``, or ``[B, C, P, 4, 4]`` with ``cells_P``.
    """
    logits_BCyx = F.interpolate(logits_BChw, scale_factor=4, mode="bilinear", align_corners=False)
    if cells_P is None:
        return logits_BCyx
    h, w = logits_BChw.shape[-2:]
    cells_BChw44 = logits_BCyx.view(*logits_BChw.shape[:2], h, 4, w, 4).transpose(3, 4)
    return cells_BChw44.flatten(2, 3).index_select(2, cells_P)


def channel_moments(embeddings_nDhw: Embeddings) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (at least 1e-6) of each channel over all cells of all images.

    Args:
        embeddings_nDhw: Read image by image, since they may lie in memory-mapped files larger than
            the memory.

    Returns:
        Two float64 tensors ``[D]`` on the CPU.
    """
    count = 0
    total_D = torch.zeros(embeddings_nDhw.shape[1], dtype=torch.float64)
    square_D = torch.zeros_like(total_D)
    for embedding_Dhw in embeddings_nDhw:
        cells_DS = embedding_Dhw.flatten(1).cpu().double()
        count += cells_DS.shape[1]
        total_D += cells_DS.sum(1)
        square_D += cells_DS.square().sum(1)
    mean_D = total_D / count
    variance_D = (square_D / count - mean_D.square()).clamp_min(0)
    return mean_D, variance_D.sqrt().clamp_min(1e-6)
