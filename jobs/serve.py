r"""Run a real server on this machine: S3 for a study's files, MLflow for its runs.

Both listen on 127.0.0.1 alone, report to nobody and keep their data in a folder.

    python jobs/serve.py s3                      # until Ctrl-C; keys in runs/s3/credentials.env
    python jobs/serve.py s3 --background         # returns when it answers; does nothing if it runs
    python jobs/serve.py s3 --stop
    python jobs/serve.py s3 --port 9000          # takes 9000 and the seven ports after it

    set -a; source runs/s3/credentials.env; set +a        # the keys, for this shell
    python jobs/tune_shots.py storage.root=s3://ssprompt/studies

    python jobs/serve.py mlflow                  # until Ctrl-C; runs in runs/mlflow.db
    MLFLOW_BACKEND=postgresql://me@db.lab/mlflow python jobs/serve.py mlflow
    python jobs/tune_shots.py tracking.uri=http://127.0.0.1:5000

MLflow hands artifacts on to the S3 server's bucket where runs/s3 has keys, else to a folder. A
database is named by the variable MLFLOW_BACKEND, never by an option: every user of a machine can
read command lines. A password is best left out of it too: Postgres's own ~/.pgpass holds it.
Exit codes: 0 stopped by Ctrl-C or TERM, 1 the server ended by itself or did not start, 2 a mistake
in the command (a port that is taken, a database that refuses).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.processes import ServerError
from ssprompt_platform.servers.serving import MlflowOptions, S3Options, serve_mlflow, serve_s3


def main(arguments: list[str]) -> int:
    """Run the job; return the exit code."""
    words = vars(_parser().parse_args(arguments))
    say = partial(print, flush=True)
    try:
        if words.pop("server") == "s3":
            serve_s3(S3Options(**words), say)
        else:
            serve_mlflow(MlflowOptions(**words), say)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = parser.add_subparsers(dest="server", required=True, metavar="s3|mlflow")

    s3 = servers.add_parser(
        "s3",
        help="a SeaweedFS server with one bucket",
        description="Run a SeaweedFS server with one bucket until Ctrl-C.",
    )
    known = S3Options()
    s3.add_argument(
        "--folder", type=Path, default=known.folder, help="its data, keys and log (%(default)s)"
    )
    s3.add_argument(
        "--port",
        type=int,
        default=known.port,
        help="port of S3; the seven after it are its own (%(default)s)",
    )
    s3.add_argument(
        "--bucket", default=known.bucket, help="made where it does not exist (%(default)s)"
    )
    how = s3.add_mutually_exclusive_group()
    how.add_argument("--background", action="store_true", help="return when it answers")
    how.add_argument("--stop", action="store_true", help="end the one that runs with this folder")

    mlflow = servers.add_parser(
        "mlflow",
        help="an MLflow tracking server with artifacts behind it",
        description="Run MLflow until Ctrl-C; the variable MLFLOW_BACKEND names its database, for "
        "example postgresql://USER@HOST:5432/DATABASE.",
    )
    usual = MlflowOptions()
    mlflow.add_argument(
        "--folder", type=Path, default=usual.folder, help="its database and log (%(default)s)"
    )
    mlflow.add_argument(
        "--port", type=int, default=usual.port, help="port of 127.0.0.1 (%(default)s)"
    )
    mlflow.add_argument(
        "--s3",
        type=Path,
        default=usual.s3,
        metavar="DIR",
        help="folder of the local S3 server (%(default)s)",
    )
    mlflow.add_argument(
        "--artifacts",
        metavar="PLACE",
        help="s3://bucket/prefix (keys of the shell) or a folder, in place of the usual choice",
    )
    mlflow.add_argument(
        "--workers",
        type=int,
        default=usual.workers,
        help="processes that answer requests (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
