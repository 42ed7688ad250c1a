"""Text encoders by name, by folder, or by name on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.text.encoder import TextEncoder
from ssprompt_core.text.folders import HUB, folder_fingerprint, hub_snapshot, minilm_folder

NAMES = ("small", "minilm")


def build_text_encoder(name: str) -> TextEncoder:
    """Build a frozen text encoder.

    Args:
        name: ``small`` (shipped with the small SAM, 96-d, reads any string); ``minilm``
            (all-MiniLM-L6-v2, a sentence encoder, 384-d, from an installed package); a folder in
            the `transformers` layout (CLIP, SigLIP, sentence encoders), from which nothing is
            downloaded; or ``hub:owner/name`` with an optional ``@revision``, which is downloaded
            where the local cache lacks it.

    Raises:
        UserError: None of these, not readable, or not to be had.
    """
    if name == "small":
        from ssprompt_core.models.small_sam import build_small_text_encoder

        return build_small_text_encoder()
    from ssprompt_core.text.hub import TransformersTextEncoder

    return TransformersTextEncoder(_folder(name), short_name(name))


def text_encoder_fingerprint(name: str) -> str:
    """The encoder's fingerprint; but for ``small``, which is, known without building it.

    Raises:
        UserError: As :func:`build_text_encoder`.
    """
    if name == "small":
        return build_text_encoder(name).fingerprint
    return folder_fingerprint(_folder(name))


def pinned_text_encoder(name: str) -> str:
    """The same encoder by a name that means it in every process, whenever it is asked.

    A folder becomes absolute, a hub name gets its commit.

    Raises:
        UserError: As :func:`build_text_encoder`.
    """
    if name in NAMES:
        return name
    folder = _folder(name)
    if name.startswith(HUB):
        return f"{name.partition('@')[0]}@{folder.name}"
    return str(folder.absolute())


def _folder(name: str) -> Path:
    if name == "minilm":
        return minilm_folder()
    if name.startswith(HUB):
        return hub_snapshot(name.removeprefix(HUB))
    if Path(name).is_dir():
        return Path(name)
    raise UserError(
        f"model.text_encoder is '{name}', which is neither one of {', '.join(NAMES)}, nor a "
        f"folder, nor {HUB}owner/name{nearest(name, NAMES)}"
    )


def short_name(name: str) -> str:
    """What the encoder calls itself: without ``hub:``, and without the folders above its own."""
    if name in NAMES or name.startswith(HUB):
        return name.removeprefix(HUB)
    return Path(name).name
