"""Looks for secrets in everything that a study wrote."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ssprompt_platform.storage import Place

CANARIES = {
    name: f"canary-{name.lower().replace('_', '-')}-7f3a+/x"
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PGPASSWORD",
        "HF_TOKEN",
        "GITHUB_TOKEN",
        "AZURE_STORAGE_ACCESS_KEY",
        "GOOGLE_API_KEY",
        "WANDB_API_KEY",
        "DATABASE_PASSWORD",
    )
}
"""A secret in every variable that some program takes one from; the S3 keys are real ones."""


def leaks(secrets: Sequence[str], folders: Sequence[Path], objects: Sequence[Place]) -> list[str]:
    """Places that hold a secret: as it is, in base64, or quoted as in an address."""
    forms = {
        form
        for secret in secrets
        for form in (
            secret.encode(),
            base64.b64encode(secret.encode()).rstrip(b"="),
            quote(secret, safe="").encode(),
        )
    }
    files: list[Place] = [
        path for folder in folders for path in folder.rglob("*") if path.is_file()
    ]
    return [
        str(place)
        for place in [*files, *objects]
        if any(form in place.read_bytes() for form in forms)
    ]
