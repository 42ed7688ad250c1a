r"""Encode the images of a study ahead of it: what needs the large encoder, and nothing else.

Takes the words of jobs/tune_shots.py and stores the embedding of every image that this study would
read, each once, in storage.root/embeddings. A study that comes later, on machines that need no GPU
for it, finds them there. No study is begun; several of these jobs may run at once.

    python jobs/encode.py study=shots storage.root=s3://bucket/prefix
    python jobs/encode.py study=ours.yaml train.workers=4 train.gpus_per_worker=1
    python jobs/encode.py study=smoke study.dry_run=true      # says how many are missing

After Ctrl-C or any other end the same command goes on: what is stored is not encoded again.
SSPROMPT_WAIT_FOR_WORKERS=900 in the environment waits so many seconds for train.workers workers of
a cluster that grows when it is asked. jobs/tune_shots.py --help lists all words.

Exit codes: 0 done, 1 the storage failed, 2 a mistake in the words, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import StorageError

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    """Encode; return the exit code."""
    words = _parser().parse_args(arguments).words
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.encode_only import encode_study

    try:
        done = encode_study(words, STUDIES, Console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"stopped: {error}; the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(
        f"{done.images} images, {done.cached} stored already, {done.encoder_calls} to encode"
        if "study.dry_run=true" in words
        else f"{done.images} images: {done.encoder_calls} encoded, {done.cached} stored already"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", metavar="KEY=VALUE", nargs="*", help="as for jobs/tune_shots.py")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
