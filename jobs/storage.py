r"""Look after a storage root: set a bucket up, find what nobody needs, measure what studies cost.

    python jobs/storage.py init s3://bucket/prefix
        makes the bucket, keeps former versions for a while, ends interrupted uploads, blocks public
        access where the server knows that; what is there already stays (--dry-run: only tells)

    python jobs/storage.py du                       # every study of the root 'runs', and the rest
    python jobs/storage.py du default-20260301-090000 --root s3://bucket/prefix
        objects and bytes by kind, of a bucket with former versions (--json: for programs)

    python jobs/storage.py gc --root s3://bucket/prefix
    python jobs/storage.py gc --root s3://bucket/prefix --delete
        what no run and no study refers to: artifacts of runs that MLflow deleted or lost,
        embeddings, class names and made images of no study, folders without study.json,
        half-written files, interrupted uploads; without --delete it only tells

MLflow is asked where the studies say that it is; --uri (again and again) names others instead. A
server with --artifacts-destination keeps artifacts elsewhere: --artifacts s3://bucket/mlflow.
Credentials and endpoint come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, or an instance role.

Exit codes: 0 done, 1 the storage did not answer or refused, 2 a mistake in the command.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import S3Path, StorageError, storage_root
from ssprompt_platform.storage_admin.listing import seconds_of
from ssprompt_platform.storage_admin.setup import ABORT_DAYS, NONCURRENT_DAYS, Setup


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        options.run(options, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _init(options: argparse.Namespace, console: Console) -> None:
    from ssprompt_platform.storage_admin.buckets import set_up

    setup = Setup(options.abort_days, options.noncurrent_days, options.dry_run)
    for step in set_up(S3Path.parse(options.place), setup):
        line = f"{step.name:<14} {step.outcome:<23} {step.told}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _gc(options: argparse.Namespace, console: Console) -> None:
    root, age = storage_root(options.root), seconds_of(options.older_than)
    places = [storage_root(place) for place in options.artifacts]
    # MLflow and torch take seconds to import, which a mistake in the words need not wait for
    from ssprompt_platform.sentences import tell
    from ssprompt_platform.storage_admin import show
    from ssprompt_platform.storage_admin.garbage import Search
    from ssprompt_platform.storage_admin.removal import delete

    found = Search(root, age, options.uri, places).run()
    if not options.json:
        show.show_found(found, console)
    gone = delete(root, found) if options.delete else None
    if options.json:
        print(json.dumps(show.found_as_json(found, options.delete), indent=1))
        return
    for sentence in show.sentences(found, gone):
        tell(console, sentence)


def _du(options: argparse.Namespace, console: Console) -> None:
    root = storage_root(options.root)
    places = [storage_root(place) for place in options.artifacts]
    from ssprompt_platform.storage_admin import show
    from ssprompt_platform.storage_admin.usage import measure

    usage = measure(root, options.study, options.uri, places)
    if options.json:
        print(json.dumps(show.usage_as_json(usage), indent=1))
    else:
        show.show_usage(usage, console, one=options.study is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make a bucket and set it up")
    init.set_defaults(run=_init)
    init.add_argument("place", metavar="s3://BUCKET[/PREFIX]", help="storage root")
    init.add_argument(
        "--abort-days", type=int, default=ABORT_DAYS, metavar="N",
        help=f"drop interrupted uploads after N days (default: {ABORT_DAYS})",
    )  # fmt: skip
    init.add_argument(
        "--noncurrent-days", type=int, default=NONCURRENT_DAYS, metavar="N",
        help=f"drop former versions after N days (default: {NONCURRENT_DAYS})",
    )  # fmt: skip
    init.add_argument("--dry-run", action="store_true", help="change nothing")

    gc = commands.add_parser("gc", help="find, and delete, what nobody refers to")
    gc.set_defaults(run=_gc)
    gc.add_argument("--delete", action="store_true", help="delete it; else it is only shown")
    gc.add_argument(
        "--older-than", default="1d", metavar="AGE",
        help="leave alone what is younger: 90m, 36h, 1d, 2w (default: 1d)",
    )  # fmt: skip

    du = commands.add_parser("du", help="measure a study, or all of them")
    du.set_defaults(run=_du)
    du.add_argument("study", metavar="STUDY", nargs="?", help="id of a study (default: all)")

    for command in (gc, du):
        add = command.add_argument
        add("--root", default="runs", help="storage root: a folder or s3://bucket/prefix (runs)")
        add("--uri", action="append", default=[], help="MLflow to ask, again and again")
        add("--artifacts", action="append", default=[], metavar="PLACE",
            help="further place of artifacts of MLflow, again and again")  # fmt: skip
        add("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
