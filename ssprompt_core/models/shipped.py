"""Files that come with this package."""

from __future__ import annotations

from pathlib import Path

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "small_sam.safetensors"
"""The pretrained small SAM."""
