"""What the files and objects are called that checks write and remove."""

from __future__ import annotations

PROBE = ".ssprompt-probe-"
"""How the name of every probe begins."""
PROBE_BYTES = 2**20
