"""``jobs/serve.py`` and the targets of make: what a user types, sees, and is left with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ssprompt_platform.servers.processes import free_ports
from ssprompt_platform.servers.seaweed import PORTS, S3Server, recorded

ROOT = Path(__file__).parents[3]
JOB = [sys.executable, str(ROOT / "jobs" / "serve.py")]


@contextmanager
def running(
    *words: str, cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A job in the foreground and the line that it says when its server answers."""
    with (cwd / "errors.txt").open("w") as errors:
        job = subprocess.Popen(
            [*JOB, *words],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert job.stdout is not None
    try:
        line = job.stdout.readline()
        assert "Ctrl-C stops it" in line, (cwd / "errors.txt").read_text()
        yield job, line
    finally:
        job.kill()
        job.wait()
        job.stdout.close()


def ran(*words: str, cwd: Path, environment: Mapping[str, str] | None = None):
    return subprocess.run(
        [*JOB, *words],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_s3_in_the_background_and_its_end(s3_server: S3Server, tmp_path: Path) -> None:
    # the fixture's program is installed
    del s3_server
    port = free_ports(PORTS)
    first = ran("s3", "--background", "--port", str(port), "--bucket", "mine", cwd=tmp_path)
    try:
        assert first.returncode == 0, first.stderr
        where = f"S3 at http://127.0.0.1:{port}, bucket mine; keys in runs/s3/credentials.env; "
        assert first.stdout.startswith(where + "it goes on in the background")
        folder = tmp_path / "runs" / "s3"
        assert recorded(folder) == port
        # it runs, so its port is the one that counts
        again = ran("s3", "--background", "--bucket", "mine", cwd=tmp_path)
        assert again.stdout.startswith(where + "it runs already")
    finally:
        stop = ran("s3", "--stop", cwd=tmp_path)
    assert (stop.returncode, stop.stdout) == (0, "stopped\n")
    assert recorded(folder) is None
    # no socket of its own is left, there or in /tmp
    assert not [*folder.glob("*.sock")]
    assert not [*Path("/tmp").glob(f"seaweedfs-*-grpc-{port + 1}*.sock")]
    assert ran("s3", "--stop", cwd=tmp_path).stdout.startswith("no S3 server runs")


def test_mlflow_on_postgres_shows_its_password_nowhere(
    postgres_database: str, tmp_path: Path
) -> None:
    secret = "hushhush"
    backend = postgres_database.replace("ssprompt@", f"ssprompt:{secret}@")
    environment = {"MLFLOW_BACKEND": backend, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    words = ("mlflow", "--port", str(free_ports(1)))
    with running(*words, cwd=tmp_path, environment=environment) as (job, line):
        assert "ssprompt:***@127.0.0.1" in line
        assert "artifacts in runs/mlflow-artifacts" in line
        members = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
        assert len(members) >= 2
        for member in members:
            assert secret not in " ".join(member.cmdline())
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0
    assert not [member for member in members if member.is_running()]
    (log,) = tmp_path.glob("runs/*.log")
    assert secret not in log.read_text()


def test_s3_in_the_foreground_ends_with_its_server(s3_server: S3Server, tmp_path: Path) -> None:
    del s3_server
    with running("s3", "--port", str(free_ports(PORTS)), cwd=tmp_path) as (job, line):
        assert "bucket ssprompt; keys in runs/s3/credentials.env" in line
        (server,) = psutil.Process(job.pid).children()
        server.kill()
        assert job.wait(60) == 1
    assert "the server ended with exit code -9; its log is" in (tmp_path / "errors.txt").read_text()


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (("s3", "--port", "65530"), {}, "error: port 65536 of the S3 server"),
        (("mlflow", "--port", "0"), {}, "error: port 0 of MLflow does not exist"),
        (("mlflow",), {"MLFLOW_BACKEND": "nonsense"}, "error: MLFLOW_BACKEND is no database URL"),
        (("nothing",), {}, "invalid choice: 'nothing'"),
    ],
)
def test_mistakes_end_with_two(
    words: tuple[str, ...], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    end = ran(*words, cwd=tmp_path, environment=environment)
    assert end.returncode == 2
    assert said in end.stderr
    assert "Traceback" not in end.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_knows_where_a_study_goes() -> None:
    def planned(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--dry-run", "--always-make", *words], cwd=ROOT, capture_output=True, text=True
        )

    local, remote = planned("study").stdout, planned("study", "STORAGE=s3").stdout
    assert "s3" not in local.splitlines()[-1]
    assert "--require-hashes" in remote
    assert "jobs/serve.py s3 --background && " in remote
    assert "source runs/s3/credentials.env" in remote
    assert "storage.root=s3://ssprompt/studies" in remote
    wrong = planned("study", "STORAGE=S3")
    assert wrong.returncode == 2
    assert "STORAGE is 'S3'" in wrong.stderr
