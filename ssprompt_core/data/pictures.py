"""Reads picture files as they are meant to be seen."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ssprompt_core.errors import UserError

UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are cut off, damaged, huge or no pictures."""


def picture_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes and, where it is turned when read, of that."""
    content = path.read_bytes()
    with Image.open(path) as picture:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    turned = b"" if orientation == 1 else f"turned {orientation}\n".encode()
    return hashlib.sha256(turned + content).hexdigest()


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as it is meant to be seen, RGB, uint8 ``[H, W, 3]``.

    The orientation that a camera notes in EXIF is applied.

    Raises:
        UserError: The file is no readable picture of 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            upright = ImageOps.exif_transpose(picture)
            pixels = np.asarray(upright.convert("RGB"))
    except UNREADABLE as error:
        raise UserError(f"{path} is not a readable image: {error}") from error
    if mode[0] in "IF":
        # Pillow would clip 16 bits to 8, which leaves mostly white
        raise UserError(f"{path} has pixels of kind {mode}, but must have 8 bits a channel")
    return pixels
