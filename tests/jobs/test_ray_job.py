"""The main job under ``ray job submit`` with token authentication, from another folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import ROOT, write_image_folder

pytestmark = pytest.mark.e2e

RAY = str(Path(sys.executable).parent / "ray")
IMPORTS_PLATFORM = """
import platform, pathlib, ray, sys
ray.init()

@ray.remote
def where():
    import os, platform
    assert platform.python_version()
    return platform.__file__, os.getcwd(), os.listdir()

assert platform.python_version()
file, folder, names = ray.get(where.remote())
assert {"platform", "jobs", "ssprompt_core"} <= set(names), names
assert not file.startswith(folder), file
print("platform is Python's own")
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def submit(home: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A head node with token authentication, and a way to submit jobs to it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "token"}
    environment.pop("RAY_ADDRESS", None)
    subprocess.run(
        [RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
    )
    port, dashboard, agent, client = free_ports(4)
    # sockets need a short path, which pytest's own folders do not promise
    folder = Path(f"/tmp/ssprompt-ray-{os.getpid()}")
    head = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"),
            *(f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def run(*entrypoint: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(RAY, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}"),
                *("--working-dir", str(ROOT), "--", *entrypoint),
            ],
            cwd=cwd,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=300,
        )

    try:
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            time.sleep(0.5)
        yield run
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            # the command itself waits for half a minute, whatever it is sent
            head.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait(30)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_study_runs_as_a_job(
    submit: Callable[..., subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    words = write_image_folder(tmp_path / "data")
    words += ["study=smoke", "search.trials=1", "study.id=job", "study.shots=[1]"]
    words += ["study.methods=[zero_shot,spa]", "train.epochs=1"]
    done = submit("python", "jobs/tune_shots.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    root = home / "ssprompt" / "runs"
    assert str(root) in done.stdout
    rows = json.loads((root / "job" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["zero_shot", "spa"]
    assert (root / "latest" / "results.json").is_file()


def test_platform_is_pythons_own_in_a_worker_in_the_project(
    submit: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = submit("python", "-c", IMPORTS_PLATFORM, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "platform is Python's own" in done.stdout


def test_a_job_without_the_token_is_refused(
    submit: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    empty = tmp_path / "stranger"
    empty.mkdir()
    done = submit(
        "python", "-c", "print(1)", cwd=tmp_path, HOME=str(empty), RAY_AUTH_TOKEN="x" * 64
    )
    assert done.returncode != 0


def test_platform_is_pythons_own_here_and_at_the_root() -> None:
    import platform

    assert platform.python_version()
    code = "import platform; assert platform.python_version(); import ssprompt_platform"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
