"""The official checkpoint files of Segment Anything, known by their SHA-256."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

OFFICIAL: dict[str, tuple[str, str]] = {
    "vit_b": (
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": (
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": (
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
"""Segmenter name -> file name and SHA-256 (hex) of the file that Meta published."""


class UnofficialCheckpointWarning(UserWarning):
    """A checkpoint is not the official file of its model."""


def check_official(name: str, checkpoint: Path | None) -> bool:
    """Compare a checkpoint file with the official one; warn once if it is another.

    A fine-tuned checkpoint stays usable: the warning says what its numbers are not. Hashing reads
    the whole file (375 MB to 2.6 GB), so the driver of a study calls this, not every worker.

    Args:
        name: A segmenter name; those without an official file are never warned about.
        checkpoint: The file, or None where the segmenter needs none.

    Returns:
        Whether the file is the official one; False where there is none to compare with.
    """
    if name not in OFFICIAL or checkpoint is None:
        return False
    file_name, expected = OFFICIAL[name]
    with checkpoint.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        warnings.warn(
            f"{checkpoint} has SHA-256 {found}, but the official {file_name} has {expected}; "
            f"numbers with it are not those of the official {name}",
            UnofficialCheckpointWarning,
            stacklevel=2,
        )
    return found == expected
