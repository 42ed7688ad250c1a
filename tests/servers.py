"""Real servers that tests share: S3, Postgres, MLflow; each started once, where a test asks."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import boto3
import pytest
from botocore.exceptions import ClientError
from mlflow.store.artifact import s3_artifact_repo
from sqlalchemy import create_engine, text

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.mlflow_server import MlflowServer
from ssprompt_platform.servers.processes import LOOPBACK, Process, free_ports
from ssprompt_platform.servers.seaweed import PORTS, S3Server, weed


class Server(Protocol):
    def alive(self) -> bool: ...
    def start(self) -> None: ...


_RUNNING: list[Server] = []


def missing(reason: str) -> None:
    """Skip the test, or fail where nothing may be skipped."""
    if os.environ.get("SSPROMPT_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def servers_run() -> None:
    """A server that the test before killed, and did not start again, is started."""
    for server in _RUNNING:
        if not server.alive():
            server.start()


@contextlib.contextmanager
def _kept(server: Server) -> Iterator[None]:
    _RUNNING.append(server)
    try:
        yield
    finally:
        _RUNNING.remove(server)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server with ``endpoint``, ``environment``, ``read_only``, kill and start."""
    try:
        weed()
    except UserError as error:
        missing(str(error))
    server = S3Server(tmp_path_factory.mktemp("s3"), free_ports(PORTS))
    server.start()
    with _kept(server):
        yield server
    server.kill()


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``s3://<fresh bucket>/studies``; the environment of this process has the admin's keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    # both keep the keys that they found first in a process
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    bucket = f"test-{secrets.token_hex(6)}"
    s3_server.client().create_bucket(Bucket=bucket)
    yield f"s3://{bucket}/studies"
    if s3_server.alive():
        with contextlib.suppress(ClientError):
            empty_bucket(s3_server, bucket)


def empty_bucket(server: S3Server, bucket: str) -> None:
    """Remove a bucket and all that is in it."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    client.delete_bucket(Bucket=bucket)


class PostgresServer:
    """Postgres on loopback; every user is trusted, but ``guarded``, who has a password."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # pytest's own folders let nobody but root pass, and Postgres refuses to run as root
        self.folder = Path(tempfile.mkdtemp(prefix="ssprompt-pg-"))
        self.port = free_ports(1)
        self.password = secrets.token_hex(8)
        self._user: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The database that every server has."""
        return self.database_url("postgres")

    def database_url(self, database: str, user: str = "ssprompt") -> str:
        return f"postgresql://{quote(user)}@{LOOPBACK}:{self.port}/{database}"

    def create(self) -> None:
        run = self._run(
            "initdb", "--pgdata=data", "--username=ssprompt", "--auth=trust", "--encoding=UTF8",
            "--no-sync", "--locale=C",
        )  # fmt: skip
        assert run.wait() == 0, run.log.read_text()
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all guarded {LOOPBACK}/32 scram-sha-256\n" + rules.read_text())

    def start(self) -> None:
        self._process = self._run(
            "postgres", "-D", "data", "-k", str(self.folder), "-p", str(self.port),
            *("-c", f"listen_addresses={LOOPBACK}", "-c", "fsync=off"),
            *("-c", "shared_buffers=32MB", "-c", "max_connections=60"),
        )  # fmt: skip
        self._process.wait_until(self._answers, 60, "Postgres")

    def alive(self) -> bool:
        return self._process is not None and self._process.alive()

    def kill(self) -> None:
        """End it at once, as a crash would (its children end themselves)."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".log").unlink(missing_ok=True)

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _answers(self) -> bool:
        try:
            self.execute("select 1")
        except Exception:  # noqa: BLE001  (any answer but yes is no)
            return False
        return True

    def _run(self, program: str, *arguments: str) -> Process:
        command = [str(self._programs / program), *arguments]
        if setpriv := shutil.which("setpriv"):
            # after the change of user, which would undo it
            command = [setpriv, *self._user, "--pdeathsig=INT", *command]
        return Process(
            command,
            log=self.folder.with_suffix(".log"),
            cwd=self.folder,
            environment={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            bound=None,
        )


def postgres_programs() -> Path | None:
    """Folder of the newest Postgres of Debian, or None."""
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = sorted(places, key=lambda place: int(re.sub(r"\D", "", place.parts[4]) or 0))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server with ``url``, ``database_url``, kill and start."""
    programs = postgres_programs()
    if programs is None:
        missing("Postgres is not installed; on Debian: apt install postgresql")
        raise AssertionError("skipped")
    server = PostgresServer(programs)
    try:
        server.create()
        server.start()
        with _kept(server):
            yield server
    finally:
        server.close()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """URL of a fresh database."""
    name = f"test_{secrets.token_hex(6)}"
    postgres.execute(f"create database {name}")
    yield postgres.database_url(name)
    if postgres.alive():
        postgres.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def mlflow_server(
    s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """MLflow on sqlite, artifacts in the S3 server: ``uri``, ``backend``, kill and start."""
    folder = tmp_path_factory.mktemp("mlflow")
    yield from _mlflow(folder, f"sqlite:///{folder / 'mlflow.db'}", s3_server)


@pytest.fixture(scope="session")
def mlflow_on_postgres(
    s3_server: S3Server, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """MLflow on Postgres, artifacts in the S3 server."""
    postgres.execute("create database mlflow")
    yield from _mlflow(
        tmp_path_factory.mktemp("mlflow"), postgres.database_url("mlflow"), s3_server
    )


def _mlflow(folder: Path, backend: str, s3_server: S3Server) -> Iterator[MlflowServer]:
    server = MlflowServer(
        folder,
        backend=backend,
        artifacts=f"s3://{s3_server.bucket}/mlflow",
        storage=s3_server.environment,
        port=free_ports(1),
    )
    server.start()
    with _kept(server):
        yield server
    server.kill()
