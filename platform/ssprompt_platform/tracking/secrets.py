"""Keeps credentials out of everything that is told to MLflow or kept for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"

_WORDS = (
    r"passw(?:or)?d|passphrase|secret|credentials?|token|api[_-]?key|access[_-]?key|private[_-]?key"
)
_KEY = re.compile(rf"(?:^|[._\- ])(?:{_WORDS})(?:[_-]?id)?(?:$|[._\- ])", re.IGNORECASE)
_VARIABLE = re.compile(_WORDS, re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:FILE|PATH|DIR|FOLDER|URI|URL|MODE|TTL|EXPIRATION)$", re.IGNORECASE)
_SHORTEST = 8
# each takes a time that grows with the length of a text, and not with its square
_SHAPES = (
    # user:password in an address; the user's name stays
    (re.compile(r"(?<![\w+.-])([\w+.-]{1,40}://[^\s/:@]{0,200}):[^\s/@]{1,1000}@"),
     rf"\1:{HIDDEN}@"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abp]-)[\w-]{16,}"), HIDDEN),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|$)", re.DOTALL), HIDDEN),
    (re.compile(r"(?i)([?&](?:ssl)?passw(?:or)?d=)[^&\s]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|sig)=)[^&\s]+"),
     rf"\1{HIDDEN}"),
)  # fmt: skip


class Censor:
    """Hides what looks like a credential, and the values of this process's secret variables.

    Args:
        environment: Variables; those whose names speak of a password, token, secret or key are
            hidden wherever their values turn up. None: the process's own.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        values = {
            value
            for name, value in variables.items()
            if _VARIABLE.search(name) and not _NO_SECRET.search(name) and len(value) >= _SHORTEST
        }
        # the longest first: one secret may begin with another
        ordered = sorted(values, key=lambda value: (-len(value), value))
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text without credentials, and without characters that no database takes."""
        text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\ufffd")
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text

    def pairs(self, pairs: Mapping[str, Any]) -> dict[str, str]:
        """Names with their values as texts; what a name calls a secret is hidden whole."""
        return {
            name: HIDDEN if _KEY.search(name) and value not in (None, "") else self.text(str(value))
            for name, value in pairs.items()
        }

    def tree(self, value: Any) -> Any:
        """The same for nested dictionaries and lists."""
        if isinstance(value, Mapping):
            return {
                key: HIDDEN
                if _KEY.search(str(key)) and isinstance(inner, str) and inner
                else self.tree(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tree(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value


def without_password(uri: str) -> str:
    """An address that may be shown: its password, if any, is hidden."""
    for shape, instead in _SHAPES:
        uri = shape.sub(instead, uri)
    return uri
