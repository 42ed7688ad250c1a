"""Text encoders in the `transformers` layout: CLIP, SigLIP or a sentence encoder, from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.text.encoder import TextEncoder

TEMPLATE = "a photo of a {}."
"""CLIP was trained on captions; it reads a class name best inside one (arXiv 2103.00020, 3.1.4)."""


class TransformersTextEncoder(TextEncoder):
    """A frozen text encoder that `transformers` can load.

    Models with text features in a joint image-text space (CLIP, SigLIP) give those; others give
    the mean of their last hidden states over the tokens. Embeddings have length 1.

    Args:
        folder: Folder with ``config.json``, ``model.safetensors`` and the tokenizer's files.
            Nothing is downloaded.

    Raises:
        UserError: ``transformers`` is not installed, or the folder is missing or not readable.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.text_encoder is '{folder}', which is not a folder with a config.json in "
                "the transformers layout"
            )
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise UserError(
                "model.text_encoder names a transformers folder, but the package is not "
                "installed; run: pip install 'ssprompt[text]'"
            ) from error
        weights = folder / "model.safetensors"
        if not weights.is_file():
            # pickled weights can run code when they are read
            raise UserError(f"{folder} has no model.safetensors; pickled weights are not read")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(f"{folder} cannot be read as a text encoder: {first_line}") from error
        self._model.eval().requires_grad_(False)
        self._joint_space = hasattr(self._model, "get_text_features")
        self.name = folder.name
        self.fingerprint = _fingerprint(folder)
        self.dim = int(self.encode(["x"]).shape[1])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed ``C`` texts, float32 ``[C, dim]``, each of length 1."""
        if self._joint_space:
            # SigLIP was trained with its texts padded to the full length; for CLIP it is harmless
            captions = [TEMPLATE.format(text) for text in texts]
            tokens = self._tokenizer(
                captions, padding="max_length", truncation=True, return_tensors="pt",
                max_length=self._model.config.text_config.max_position_embeddings,
            )  # fmt: skip
            features = self._model.get_text_features(**tokens)
            pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        else:
            tokens = self._tokenizer(
                list(texts), padding=True, truncation=True, return_tensors="pt"
            )
            hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled.float(), dim=-1)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256(TEMPLATE.encode())
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in {".json", ".txt", ".safetensors"}
    ):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
