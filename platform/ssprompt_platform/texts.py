"""The store of embedded class names: one safetensors file per encoder, class list and templates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssprompt_core.text.classes import TEMPLATES, ClassTexts
from ssprompt_platform.storage import Place, local_file, write_whole


class TextStore:
    """Embeddings of class lists under a content key.

    The key is the SHA-256 of encoder fingerprint, class names in their order, and templates. A
    file appears whole or not at all; one that is damaged counts as missing.

    Args:
        folder: Folder of the store; made when something is put there.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder

    def path(self, fingerprint: str, names: Sequence[str]) -> Place:
        """File of a class list, whether it exists or not."""
        content = json.dumps([fingerprint, list(names), TEMPLATES])
        return self.folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"

    def put(self, texts: ClassTexts) -> None:
        """Store embedded class names."""
        tensors = {"plain": texts.plain_CE, "ensemble": texts.ensemble_CE}
        metadata = {"sha256": _digest(tensors)}  # safetensors would not notice a changed number
        write_whole(
            self.path(texts.fingerprint, texts.names),
            lambda temporary: save_file(tensors, temporary, metadata),
        )

    def get(self, fingerprint: str, names: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Stored embeddings of ``C`` class names, plain and ensemble, float32 ``[C, D_text]``.

        None where there are none, or the file is damaged.
        """
        try:
            with local_file(self.path(fingerprint, names)) as path, safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("plain", "ensemble")}
                expected = file.metadata()["sha256"]
        except (OSError, SafetensorError, KeyError, TypeError):
            return None
        return (tensors["plain"], tensors["ensemble"]) if _digest(tensors) == expected else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
