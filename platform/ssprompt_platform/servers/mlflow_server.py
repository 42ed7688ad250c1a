"""An MLflow tracking server on loopback that hands artifacts on to S3 or a folder."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from ssprompt_platform.servers.database import check_database
from ssprompt_platform.servers.processes import LOOPBACK, Process, check_port

MLFLOW_PORT = 5000
LOG_FILE = "mlflow-server.log"
_READY_SECONDS = 120.0
_STOP_SECONDS = 5.0
_OURS = (
    "MLFLOW_BACKEND", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_SERVE_ARTIFACTS", "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_STATIC_PREFIX", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
)  # fmt: skip
"""Variables that a shell may have for clients, or that would change what this server is."""


class MlflowServer:
    """A tracking server whose clients need neither the database nor the keys of the bucket.

    Killed with -9 and started again with the same backend, it has all that it had acknowledged.

    Args:
        folder: Where it runs and its log lies.
        backend: SQLAlchemy URL of its database; may hold a password, which no command line shows.
        artifacts: ``s3://bucket/prefix`` or a folder that artifacts are handed on to.
        storage: ``AWS_*`` variables with which it reaches the bucket, in place of the shell's own.
        port: Port of 127.0.0.1.
        workers: Processes that answer requests.
    """

    def __init__(
        self,
        folder: Path,
        backend: str,
        artifacts: str | Path,
        storage: Mapping[str, str] | None = None,
        port: int = MLFLOW_PORT,
        workers: int = 1,
    ) -> None:
        self.folder = folder.resolve()
        self.backend = backend
        self.port = port
        self.artifacts = artifacts.resolve().as_uri() if isinstance(artifacts, Path) else artifacts
        self._storage = dict(storage or {})
        self._workers = workers
        self._process: Process | None = None

    @property
    def uri(self) -> str:
        """Its URL: a client's tracking URI."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """File of what it says."""
        return self.folder / LOG_FILE

    @property
    def pid(self) -> int:
        """Its first process's id while it runs."""
        if self._process is None:
            raise RuntimeError("the MLflow server was not started")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; it dies with this process.

        Raises:
            UserError: The port is taken, or the database cannot be used.
            ServerError: It ended or did not answer in time.
        """
        check_port(self.port, "MLflow", "choose another: jobs/serve.py mlflow --port PORT")
        self.folder.mkdir(parents=True, exist_ok=True)
        check_database(self.backend)
        self._process = Process(
            [sys.executable, "-m", "mlflow", *self._arguments()],
            log=self.log,
            cwd=self.folder,
            environment=self._environment(),
        )
        self._process.wait_until(self._answers, _READY_SECONDS, "the MLflow server")

    def wait(self) -> int:
        """Wait until it ends by itself; returns its exit code."""
        return self._process.wait() if self._process else 0

    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._process is not None and self._process.alive()

    def stop(self) -> None:
        """End it: ask, then kill."""
        if self._process is not None:
            self._process.stop(_STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End all its processes with -9, as a crash would, and wait until they are gone."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again with its database and port."""
        self.kill()
        self.start()

    def _arguments(self) -> list[str]:
        places = [f"{host}:{self.port}" for host in (LOOPBACK, "localhost")]
        return [
            "server",
            *("--host", LOOPBACK, "--port", str(self.port), "--workers", str(self._workers)),
            *("--serve-artifacts", "--artifacts-destination", self.artifacts),
            # a page of another site that points its own name at 127.0.0.1 gets no answer
            *("--allowed-hosts", ",".join(places)),
            *("--cors-allowed-origins", ",".join(f"http://{place}" for place in places)),
        ]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _OURS}
        if self._storage:
            kept = {name: value for name, value in kept.items() if not name.startswith("AWS_")}
            kept.pop("MLFLOW_S3_ENDPOINT_URL", None)
        return {
            **kept,
            **self._storage,
            # command lines are read by every user of a machine, environments by their owner
            "MLFLOW_BACKEND_STORE_URI": self.backend,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
