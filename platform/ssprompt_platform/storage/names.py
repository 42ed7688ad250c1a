"""Names of files and objects that are made from what data calls its images and classes."""

from __future__ import annotations

import hashlib

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_LONGEST = 80
_DIGITS = 10


def safe_name(text: str) -> str:
    """One part of a path for any text: other texts give other names, whatever they hold.

    A text of letters, digits and ``-_.`` that is short and begins with none of ``-.`` is its own
    name. Of others what is special becomes ``_``, long ones are cut, and a digest of the text tells
    apart what would be equal then.

    Args:
        text: Any, as an image's id or a class's name.

    Returns:
        At most 92 ASCII characters, without a slash, neither ``.`` nor ``..``.
    """
    plain = "".join(c if c in _PLAIN else "_" for c in text).lstrip("-.")[:_LONGEST]
    if plain == text and text:
        return plain
    # a surrogate of a file name that is no UTF-8 is a character like another here
    content = text.encode("utf-8", "surrogatepass")
    return f"{plain or 'name'}~{hashlib.sha256(content).hexdigest()[:_DIGITS]}"
