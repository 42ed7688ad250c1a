r"""Score learned prompts on another data set whose classes have the same names: transfer.

The data set is told in the words of a study (data.key=value; see jobs/tune_shots.py --help).
Classes are matched by name, whatever their order. Several files of one method and K, such as the
draws of a study, become one column with mean and standard deviation.

    python jobs/evaluate.py --prompts runs/ours/fits/ssprompt-k4-d*.safetensors --split all \
        data.kind=folder data.images=photos data.labels=masks data.classes=classes.txt
    python jobs/evaluate.py --prompts runs/ours/fits/*-k16-d*.safetensors --data night.yaml \
        --output night.json
    python jobs/evaluate.py --prompts runs/default/fits/sem-k4-d0.safetensors data.seed=7

The job says so where a file was learned on this very data set, or even on images that are scored.
Exit codes: 0 done, 2 a mistake in the command or its files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.progress import Progress
from ssprompt_platform.use.arguments import PROMPTS, add_model_arguments, prompt_file

if TYPE_CHECKING:
    from ssprompt_platform.use.transfer import TransferOptions

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    given = _parser().parse_intermixed_args(arguments)
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.use.transfer import evaluate_prompts
    from ssprompt_platform.use.transfer_table import transfer_tables, warnings

    progress = Progress(Console())
    try:
        options = _options(given)
        result = evaluate_prompts(options, STUDIES, progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    for table in transfer_tables(result):
        progress.console.print(table)
    for sentence in warnings(result):
        print(sentence, file=sys.stderr)
    if options.output:
        progress.say(f"written to {options.output}")
    return 0


def _options(given: argparse.Namespace) -> TransferOptions:
    from ssprompt_platform.use.transfer import TransferOptions

    # data.key=value words right behind --prompts look like further files of it
    words = [word for word in given.prompts if "=" in word and not Path(word).exists()]
    return TransferOptions(
        prompts=[prompt_file(word) for word in given.prompts if word not in words],
        words=[*([f"study={given.data}"] if given.data else []), *words, *given.words],
        split=given.split,
        checkpoint=given.checkpoint,
        device=given.device,
        batch_size=given.batch_size,
        output=given.output,
        overwrite=given.overwrite,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--prompts", nargs="+", required=True, metavar="FILE", help=PROMPTS)
    add("words", nargs="*", metavar="data.key=value", help="the data set to score on")
    add("--data", metavar="STUDY", help="a study, by name or .yaml file, whose data group is meant")
    add(
        "--split",
        choices=("test", "all"),
        default="test",
        help="test (default): the test split; all: every image of the data set",
    )
    add("--output", type=Path, metavar="FILE", help="all scores as JSON")
    add("--overwrite", action="store_true", help="write --output anew where it exists")
    add_model_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
