"""A server as a user runs it: in the foreground until Ctrl-C, or in the background."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssprompt_platform.servers.database import absolute, shown
from ssprompt_platform.servers.keys import ADMIN_FILE, read_environment
from ssprompt_platform.servers.mlflow_server import MLFLOW_PORT, MlflowServer
from ssprompt_platform.servers.processes import ServerError
from ssprompt_platform.servers.seaweed import (
    RECORD_FILE,
    S3_BUCKET,
    S3_PORT,
    S3Server,
    recorded,
    stop_recorded,
    wait_until_ready,
)

BACKEND = "MLFLOW_BACKEND"
"""Variable that names MLflow's database; no option does, for command lines are no secret."""


Say = Callable[[str], None]
"""Takes a line for the user."""


@dataclass(frozen=True)
class S3Options:
    """What ``jobs/serve.py s3`` was told."""

    folder: Path = Path("runs/s3")
    port: int = S3_PORT
    bucket: str = S3_BUCKET
    background: bool = False
    stop: bool = False


@dataclass(frozen=True)
class MlflowOptions:
    """What ``jobs/serve.py mlflow`` was told.

    Attributes:
        folder: Default place of its database, log and, without S3, artifacts.
        port: Port of 127.0.0.1.
        s3: Folder of the local S3 server.
        artifacts: ``s3://bucket/prefix`` or a folder; None for the local S3 server's bucket where
            that has keys, else a folder.
        workers: Processes that answer requests.
    """

    folder: Path = Path("runs")
    port: int = MLFLOW_PORT
    s3: Path = Path("runs/s3")
    artifacts: str | None = None
    workers: int = 1


def serve_s3(options: S3Options, say: Say) -> None:
    """Run the local S3 server until Ctrl-C, start it in the background, or stop it.

    Raises:
        UserError: The program is missing, a port is taken, a file of keys is broken.
        ServerError: It ended by itself, or did not answer in time.
    """
    if options.stop:
        ended = stop_recorded(options.folder)
        words = "stopped" if ended else f"no S3 server runs with the data in {options.folder}"
        say(words)
        return
    port = recorded(options.folder)
    server = S3Server(options.folder, port or options.port, options.bucket)
    where = (
        f"S3 at {server.endpoint}, bucket {options.bucket}; keys in {options.folder / ADMIN_FILE}"
    )
    if port is not None:
        # another command may have started it a moment ago
        wait_until_ready(server)
        say(f"{where}; it runs already. jobs/serve.py s3 --stop stops it")
    elif options.background:
        server.start(bound=False)
        say(f"{where}; it goes on in the background. jobs/serve.py s3 --stop stops it")
    else:
        _in_foreground(server, f"{where}; Ctrl-C stops it", say)


def serve_mlflow(options: MlflowOptions, say: Say) -> None:
    """Run MLflow until Ctrl-C; the variable ``MLFLOW_BACKEND`` names its database.

    Raises:
        UserError: The port is taken, the database cannot be used, a file of keys is broken.
        ServerError: It ended by itself, or did not answer in time.
    """
    backend = os.environ.get(BACKEND) or f"sqlite:///{options.folder / 'mlflow.db'}"
    artifacts, storage = _artifacts(options, say)
    server = MlflowServer(
        options.folder,
        backend=absolute(backend, BACKEND),
        artifacts=artifacts,
        storage=storage,
        port=options.port,
        workers=options.workers,
    )
    _in_foreground(
        server,
        f"MLflow at {server.uri}, runs in {shown(backend)}, artifacts in {artifacts}; "
        f"a study reports to it with tracking.uri={server.uri}; Ctrl-C stops it",
        say,
    )


def _artifacts(options: MlflowOptions, say: Say) -> tuple[str | Path, dict[str, str]]:
    """Where artifacts go, and the variables that open it (none: those of the shell)."""
    keys = options.s3 / ADMIN_FILE
    if options.artifacts is not None:
        place = options.artifacts
        return (place, {}) if "://" in place else (Path(place), {})
    if not keys.exists():
        return options.folder / "mlflow-artifacts", {}
    if recorded(options.s3) is None:
        say(
            f"warning: {keys} says that artifacts go to S3, but that server does not run; until "
            "make s3 starts it no artifact can be written or read (--artifacts DIR: a folder)",
        )
    return f"s3://{S3_BUCKET}/mlflow", read_environment(keys)


def _in_foreground(server: S3Server | MlflowServer, words: str, say: Say) -> None:
    with _term_is_ctrl_c():
        try:
            server.start()
            say(words)
            code = server.wait()
        except KeyboardInterrupt:
            say("stopping ...")
            server.stop()
            return
    if isinstance(server, S3Server) and not (server.folder / RECORD_FILE).exists():
        say("stopped by another command")
        return
    raise ServerError(f"the server ended with exit code {code}; its log is {server.log}")


@contextmanager
def _term_is_ctrl_c() -> Iterator[None]:
    """While inside, TERM raises KeyboardInterrupt, as what supervisors send should stop both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
