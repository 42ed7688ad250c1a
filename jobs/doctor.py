r"""Say what is wrong with everything that a study stands on, and how it is mended.

Takes the words of jobs/tune_shots.py, since they say which storage, MLflow and resources to look
at. Nothing of a study is written and nothing of the probes stays.

    python jobs/doctor.py
    python jobs/doctor.py study=shots storage.root=s3://bucket/prefix
    RAY_ADDRESS=head:6379 python jobs/doctor.py storage.root=/mnt/shared/runs train.device=cuda
    python jobs/doctor.py --fast            # leave out what starts or joins a cluster: seconds
    python jobs/doctor.py --json            # for programs

looked at
  versions        Python and packages, against the ranges that this project declares
  limits          open files; shared memory for Ray's objects
  GPU             whether torch sees what the driver offers
  disks           free space of the storage root, the cache, temporary files and Ray's files
  storage         write, read, list, delete and conditional write; a bucket's versions and rules;
                  the clock of its server
  MLflow          whether it answers, its version and clock, the experiment, the artifacts
  Ray             whether RAY_ADDRESS can be joined or a cluster be started here; from each machine
                  of it the storage, the cache's disk, the clock, versions and GPUs
each line: OK, WARN (a study can do without) or FAIL (a study would not run), what was found, and
below it the command or setting that mends it.

Exit codes: 0 nothing fails, 1 something does, 2 a mistake in the words.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    """Examine; return the exit code."""
    options = _parser().parse_args(arguments)
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.config import load_config
    from ssprompt_platform.doctor.examine import as_json, examine, failed, show
    from ssprompt_platform.doctor.findings import Subject
    from ssprompt_platform.storage import storage_root

    try:
        config = load_config(options.words, STUDIES)
        subject = Subject(config, storage_root(config.storage.root), fast=options.fast)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        console = Console(stderr=options.json)
        with console.status("looking ..."):
            findings = list(examine(subject))
        if options.json:
            print(as_json(findings))
        else:
            show(findings, console)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return int(failed(findings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("words", metavar="KEY=VALUE", nargs="*", help="as for jobs/tune_shots.py")
    add("--fast", action="store_true", help="neither start nor join a cluster")
    add("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
