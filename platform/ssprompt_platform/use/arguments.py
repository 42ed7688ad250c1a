"""Command-line arguments that all jobs with learned prompts share."""

from __future__ import annotations

import argparse
from pathlib import Path


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
