r"""Tell MLflow what a study could not tell it, or say what waits.

A study writes what it has to tell into a journal on the disk of the machine that runs it, and tells
MLflow from there. With MLflow down the study goes on, and the journal keeps everything; so it does
where the study itself is killed. What waits then is told by the next study of the same storage
root, or by this job. Told twice, it changes nothing: it can be run at any time and as often as you
like.

    python jobs/tracking.py status                  # what waits, study by study
    python jobs/tracking.py sync                    # tell all of it
    python jobs/tracking.py sync default-20260301-090000
    python jobs/tracking.py sync ours --root s3://bucket/prefix
    python jobs/tracking.py sync ours --uri http://mlflow:5000   # a whole study to another MLflow
    python jobs/tracking.py sync ours --refused     # and once more what MLflow refused before

sync also marks runs as KILLED whose study no process runs any more. Credentials come from the
environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and
AWS_* for a bucket). A study that runs tells MLflow itself and is left alone. What MLflow refuses,
such as a file that is not there any more, is kept with the reason in the study's folder
(tracking/refused.jsonl) and does not hold up the rest.
Exit codes: 0 everything is told, 1 something still waits, 2 a mistake in the command.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from ssprompt_core.errors import UserError


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    given = vars(_parser().parse_args(arguments))
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.tracking.sync import Options, status, sync

    command, options = given.pop("command"), Options(**given)
    try:
        if command == "status":
            status(options, Console())
            return 0
        return 0 if sync(options, Console()) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("study", nargs="?", default="", metavar="STUDY", help="id of a study, or its folder")
    add("--root", default="runs", help="storage root of the studies (default: runs)")
    add("--uri", default="", help="MLflow to tell (default: the one that each study named)")
    commands.add_parser("status", parents=[shared], help="say what waits")
    sync_parser = commands.add_parser("sync", parents=[shared], help="tell what waits")
    sync_parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="wait so long for an MLflow that does not answer (default: 10)",
    )
    sync_parser.add_argument(
        "--refused", dest="again", action="store_true", help="tell once more what was refused"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
