"""Command-line arguments that all jobs with learned prompts share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import S3Path, StorageError, safe_name, work_root, write_whole

PROMPTS = "learned prompts: a file, or its address in a bucket (s3://...)"


def prompt_file(word: str) -> Path:
    """A file of learned prompts by its path, or by its S3 address: fetched to this machine then.

    Raises:
        UserError: It lies in a bucket and cannot be fetched.
    """
    if not word.startswith("s3://"):
        return Path(word)
    try:
        place = S3Path.parse(word)
        # another content gets another place: a study may have learned it anew meanwhile
        version = safe_name(str(place.head()["ETag"]).strip('"'))
        copy = work_root(place.parent) / version / safe_name(place.name)
        if not copy.is_file():
            write_whole(copy, place.download)
    except (StorageError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    return copy


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the weights are, on what device and how many images at once."""
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="weights of the model that the prompts were learned for, as model.checkpoint of its "
        "study; the small one needs none",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    add(
        "--batch-size",
        type=int,
        default=0,
        metavar="N",
        help="images at once; 0 (default): chosen by the size of the model's input",
    )
