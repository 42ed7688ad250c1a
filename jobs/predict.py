r"""Segment a folder of images with learned prompts.

A study keeps a learned-prompt file of every final fit: runs/<study>/fits/<fit>.safetensors. It
names the frozen model that it needs, its classes and how it decodes; nothing else is asked.

    python jobs/predict.py --prompts runs/ours/fits/ssprompt-k4-d0.safetensors \
        --images photos --output predicted --overlays
    python jobs/predict.py --prompts vit.safetensors --checkpoint sam_vit_b_01ec64.pth \
        --images photos --output predicted --device cuda --coco

Into --output it writes
    masks/NAME.png      class maps: a pixel's value is its class id, the palette its colour
    prediction.json     the classes (id, name, colour) and the prompts that made the masks
    overlays/NAME.png   with --overlays: the classes over the image, with a legend
    coco.json           with --coco: one RLE mask per image and class, in the COCO format

Images are those of the folder itself (JPEG, PNG, BMP, TIFF, WebP), turned as their EXIF says. The
same command given again continues: images that have a mask are skipped. Exit codes: 0 all is done,
1 some images could not be read (each is named), 2 a mistake in the command or its files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.progress import Progress
from ssprompt_platform.use.arguments import PROMPTS, add_model_arguments, prompt_file


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    given = vars(_parser().parse_args(arguments))
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.use.predicting import PredictOptions, predict_folder

    progress = Progress(Console())
    try:
        options = PredictOptions(**{**given, "prompts": prompt_file(given["prompts"])})
        report = predict_folder(options, progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command without --overwrite continues", file=sys.stderr)
        return 130
    for sentence in report.unreadable:
        print(f"not segmented: {sentence}", file=sys.stderr)
    progress.say(
        f"{report.predicted} images segmented, {report.skipped} were there already, "
        f"{len(report.unreadable)} could not be read; results in {options.output}"
    )
    return 1 if report.unreadable else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompts", required=True, metavar="FILE", help=PROMPTS)
    add("--images", type=Path, required=True, metavar="FOLDER", help="what to segment")
    add("--output", type=Path, required=True, metavar="FOLDER", help="where results go")
    add_model_arguments(parser)
    add("--overlays", action="store_true", help="pictures with the classes over the image")
    add("--coco", action="store_true", help="all masks as coco.json")
    add("--limit", type=int, metavar="N", help="only the first N images by name")
    add("--overwrite", action="store_true", help="make files anew that exist")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
