"""Text encoders by name or by folder."""

from __future__ import annotations

from pathlib import Path

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.text.encoder import TextEncoder

NAMES = ("small",)


def build_text_encoder(name: str) -> TextEncoder:
    """Build a frozen text encoder.

    Args:
        name: ``small`` (shipped with the small SAM, 96-d, reads any string), or a folder in the
            `transformers` layout (CLIP, SigLIP, sentence encoders).

    Raises:
        UserError: Neither a known name nor a readable folder.
    """
    if name == "small":
        from ssprompt_core.models.small_sam import build_small_text_encoder

        return build_small_text_encoder()
    if Path(name).is_dir():
        from ssprompt_core.text.hub import TransformersTextEncoder

        return TransformersTextEncoder(Path(name))
    raise UserError(
        f"model.text_encoder is '{name}', which is neither one of {', '.join(NAMES)} nor a folder"
        f"{nearest(name, NAMES)}"
    )
