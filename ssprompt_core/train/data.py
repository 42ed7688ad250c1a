"""What a fit learns from: frozen embeddings and labels, the labels arranged per embedding cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.embeddings import Embeddings
from ssprompt_core.errors import UserError
from ssprompt_core.models.segmenter import Segmenter


@dataclass(frozen=True)
class LabelledEmbeddings:
    """Images as frozen embeddings, with their labels.

    Attributes:
        embeddings: Float ``[n, D, h, w]``, or images that stay in their memory-mapped files.
        labels: Class maps, uint8 ``[H, W]`` each, with 255 for "no class".
        sizes: Height and width of each image.
    """

    embeddings: Embeddings
    labels: list[NDArray[np.uint8]]
    sizes: list[tuple[int, int]]

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.labels) == len(self.sizes):
            raise ValueError(
                f"{len(self.embeddings)} embeddings, {len(self.labels)} labels and "
                f"{len(self.sizes)} sizes do not belong together"
            )


def label_cells(
    labels: Sequence[NDArray[np.uint8]], segmenter: Segmenter, num_classes: int
) -> Tensor:
    """Resample labels into the frame of the mask logits and cut it into embedding cells.

    A logit pixel gets the label at its centre (nearest neighbour); in the padding it gets 255.

    Args:
        labels: Class maps, uint8 ``[H, W]`` each.
        segmenter: Says which part of its logits an image covers.
        num_classes: ``C``.

    Returns:
        Uint8 ``[n, h * w, 4, 4]``.

    Raises:
        UserError: A label has a class outside ``[0, C)`` that is not 255.
    """
    grid = segmenter.grid_size
    side = 4 * grid
    frames_nyx = np.full((len(labels), side, side), IGNORE, np.uint8)
    for frame_yx, label in zip(frames_nyx, labels, strict=True):
        worst = int(np.where(label == IGNORE, 0, label).max())
        if worst >= num_classes:
            raise UserError(
                f"a label has class {worst}, but there are {num_classes} classes, 0 to "
                f"{num_classes - 1}"
            )
        height, width = label.shape
        rows, columns = segmenter.valid_frame(height, width)
        down, across = segmenter.logit_steps(height, width)
        y = np.minimum((np.arange(rows) + 0.5) * down, height - 1).astype(np.int64)
        x = np.minimum((np.arange(columns) + 0.5) * across, width - 1).astype(np.int64)
        frame_yx[:rows, :columns] = label[np.ix_(y, x)]
    cells = torch.from_numpy(frames_nyx).view(len(labels), grid, 4, grid, 4).transpose(2, 3)
    return cells.reshape(len(labels), grid * grid, 4, 4)
