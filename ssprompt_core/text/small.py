"""A small text encoder that reads any string: hashed character n-grams and a small MLP."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssprompt_core.text.encoder import TextEncoder, refuse_empty

BUCKETS = 4096
CONTEXT_DIM, _HIDDEN = 48, 128
"""Length of an n-gram's embedding, and of a learned context token beside them."""
_SCHEME = "words and padded 3- and 4-grams, crc32, 4096 buckets"


def ngram_ids(text: str) -> list[int]:
    """Buckets of a text's words and of their character 3- and 4-grams.

    Unlike Python's own ``hash``, crc32 is the same in every process and on every machine.
    """
    ids: list[int] = []
    for word in text.lower().split():
        padded = f"<{word}>"
        grams = [padded[i : i + n] for n in (3, 4) for i in range(len(padded) - n + 1)]
        ids += [zlib.crc32(part.encode()) % BUCKETS for part in (f"w:{word}", *grams)]
    return ids


class NgramText(nn.Module):
    """The trainable part, as it is pretrained together with the small SAM.

    Args:
        dim: Length of an embedding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(BUCKETS, CONTEXT_DIM, mode="mean")
        self.mlp = nn.Sequential(
            nn.LayerNorm(CONTEXT_DIM),
            nn.Linear(CONTEXT_DIM, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, dim),
        )

    def forward(self, texts: Sequence[str], context_LW: Tensor | None = None) -> Tensor:
        """Embed ``C`` texts, float32 ``[C, dim]``; context joins the mean over a text's n-grams."""
        ids = [ngram_ids(text) for text in texts]
        offsets = torch.tensor([0, *(len(i) for i in ids[:-1])]).cumsum(0)
        flat = torch.tensor([bucket for text in ids for bucket in text], dtype=torch.long)
        device = self.table.weight.device
        mean_CW: Tensor = self.table(flat.to(device), offsets.to(device))
        if context_LW is not None:
            counts_C1 = torch.tensor([[float(len(i))] for i in ids], device=device)
            total_CW = mean_CW * counts_C1 + context_LW.sum(0)
            mean_CW = total_CW / (counts_C1 + len(context_LW))
        embedded: Tensor = self.mlp(mean_CW)
        return embedded


class SmallTextEncoder(TextEncoder):
    """The frozen encoder; its embeddings are prompt tokens of the small SAM (``D_text = D``).

    It knows the names of the pretraining world's foreground classes best (see the model card);
    any other string gets an embedding too, with little meaning.
    """

    name = "small"
    context_dim = CONTEXT_DIM

    def __init__(self, model: NgramText) -> None:
        self.model = model.eval().requires_grad_(False)
        self.dim = int(model.mlp[-1].out_features)  # type: ignore[arg-type]
        digest = hashlib.sha256(_SCHEME.encode())
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed ``C`` texts, float32 ``[C, 96]``.

        Raises:
            UserError: A text has no word in it.
        """
        refuse_empty(texts)
        embedded: Tensor = self.model.to("cpu")(texts)
        return embedded

    def starting_context(self, length: int, generator: torch.Generator) -> Tensor:
        """Random vectors of the size of the table's entries, float32 ``[L, 48]``."""
        weight = self.model.table.weight
        noise_LW = torch.randn(length, CONTEXT_DIM, generator=generator)
        return noise_LW.to(weight.device) * weight.square().mean().sqrt()

    def encode_with_context(self, texts: Sequence[str], context_LW: Tensor) -> Tensor:
        """Embed ``C`` names whose n-grams are averaged with the context, float32 ``[C, 96]``."""
        embedded: Tensor = self.model.to(context_LW.device)(texts, context_LW)
        return embedded
