r"""Run a study on a Ray cluster: send it there as a job, and show what it prints.

Takes the words of jobs/tune_shots.py. They are checked here first; then the project's code (and
the study file, where study= is a file of this machine) goes to the cluster, and the study runs
on it. Nothing else is sent: no runs, no data, no environment, no credential.

    python jobs/submit.py --address http://127.0.0.1:8265 study=shots storage.root=s3://bucket/a
    python jobs/submit.py --dry-run study=mine.yaml      # what would be sent, without a cluster
    python jobs/submit.py --no-wait study=shots          # print the job's id and return
    python jobs/submit.py --follow ID                    # show a job that runs, from its beginning
    python jobs/submit.py --stop ID                      # end it; its study can be continued

the cluster
  --address, or RAY_ADDRESS: the dashboard of the cluster's head. Under Kubernetes:
      kubectl port-forward service/NAME-head-svc 8265
  It must run the same minor version of Ray as this project.
the token, where the cluster asks for one (RAY_AUTH_MODE=token)
  RAY_AUTH_TOKEN, or the file that --token-file or RAY_AUTH_TOKEN_PATH names, or
  ~/.ray/auth_token. It is never on a command line, and never part of the job. Of a Secret:
      kubectl get secret NAME -o jsonpath='{.data.auth_token}' | base64 -d > token
credentials of the storage and of MLflow
  belong into the environment of the cluster's pods (a Secret). Words that hold one are refused,
  since the dashboard shows them.
Ctrl-C
  leaves the job running and says how to follow and how to stop it; on a terminal it asks first
  whether to stop it. A study that was stopped or lost its cluster goes on when the same words are
  submitted again, with the same study.id.

Exit codes: that of the study (0 finished, 1 incomplete, 2 a mistake in the words, 143 stopped);
2 also where the cluster does not answer, refuses the token or runs another Ray; 1 where it does
not answer any more; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ssprompt_core.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Submit, follow or stop a job; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the job was submitted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    # here, since --help and mistakes in the words need none of it
    from ssprompt_platform.submitting import Cluster, plan_submission, stop, submit

    if options.stop:
        was_running = stop(Cluster.of(options.address, options.token_file), options.stop)
        print("the job ends now" if was_running else "the job had ended already")
        return 0
    if options.follow:
        return _follow(options, options.follow)
    # what would be sent can be seen without a cluster
    cluster = Cluster.of(
        options.address or ("http://HOST:8265" if options.dry_run else ""), options.token_file
    )
    submission = plan_submission(options.words, PROJECT, cluster)
    for note in submission.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.dry_run:
        print(f"would run at {cluster.address}:\n  {submission.entrypoint}")
        print(f"token: {cluster.token_source or 'none'}")
        print(f"would send {len(submission.sources)} files, {submission.size / 1e6:.1f} MB:")
        print("\n".join(f"  {name}" for name in submission.sources))
        return 0
    job = submit(submission, cluster, options.submission_id)
    print(f"job {job} at {cluster.address}", flush=True)
    if options.no_wait:
        print(f"follow: {_command(options, 'follow', job)}")
        return 0
    return _follow(options, job)


def _follow(options: argparse.Namespace, job: str) -> int:
    from ssprompt_platform.submitting import Cluster, follow, stop

    cluster = Cluster.of(options.address, options.token_file)
    try:
        return follow(cluster, job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        if _asked_to_stop():
            stop(cluster, job)
            print("the job ends now; its study can be continued", file=sys.stderr)
        else:
            print(
                f"\nthe job goes on\n  follow: {_command(options, 'follow', job)}\n"
                f"  stop:   {_command(options, 'stop', job)}",
                file=sys.stderr,
            )
        return 130


def _asked_to_stop() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job, too? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _command(options: argparse.Namespace, action: str, job: str) -> str:
    given = [("--address", options.address), ("--token-file", options.token_file)]
    named = [word for option, value in given if value for word in (option, value)]
    return shlex.join(["python", "jobs/submit.py", *named, f"--{action}", job])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("words", metavar="KEY=VALUE", nargs="*", help="as for jobs/tune_shots.py")
    add("--address", default="", help="dashboard of the cluster (default: RAY_ADDRESS)")
    add("--token-file", default="", metavar="FILE", help="file that holds the cluster's token")
    add("--submission-id", default="", metavar="ID", help="name of the job (default: made by Ray)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would be sent; send nothing")
    how.add_argument("--no-wait", action="store_true", help="do not wait for the job's end")
    how.add_argument("--follow", default="", metavar="ID", help="show a job that was submitted")
    how.add_argument("--stop", default="", metavar="ID", help="end a job")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
