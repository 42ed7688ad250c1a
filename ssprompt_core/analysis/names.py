"""Which class names a semantic prompt resembles."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def name_similarity(semantic_CD: Tensor, names_CD: Tensor) -> Tensor:
    """Cosine of each semantic prompt with the frozen embedding of each class name.

    Args:
        semantic_CD: Semantic prompts as the decoder gets them, float.
        names_CD: Frozen embeddings of the class names, mapped to ``D`` where there is a map.

    Returns:
        ``[C, C]`` in [-1, 1]: row = prompt of a class, column = class name.
    """
    return F.normalize(semantic_CD, dim=1) @ F.normalize(names_CD, dim=1).T
