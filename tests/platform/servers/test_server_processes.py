"""A server as a process: ports, readiness, and that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.processes import (
    LOOPBACK,
    Process,
    ServerError,
    check_port,
    free_ports,
)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def poll(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def started(folder: Path, *command: str, bound: signal.Signals | None = signal.SIGTERM) -> Process:
    return Process(command, folder / "log", folder, os.environ, bound)


def test_a_taken_port_names_who_listens() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError) as caught:
            check_port(port, "MLflow", "choose another with --port")
    assert str(caught.value) == (
        f"port {port} of MLflow is taken by {psutil.Process().name()} (process {os.getpid()}); "
        "stop that, or choose another with --port"
    )
    check_port(port, "MLflow", "")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_does_not_exist(port: int) -> None:
    with pytest.raises(UserError, match="between 1 and 65535"):
        check_port(port, "MLflow", "")


def test_free_ports_are_neighbours_that_can_be_bound() -> None:
    first = free_ports(4)
    servers = [socket.create_server((LOOPBACK, first + number)) for number in range(4)]
    for server in servers:
        server.close()


def test_a_program_that_ends_is_told_with_its_code(tmp_path: Path) -> None:
    process = started(tmp_path, "sh", "-c", "echo it broke; exit 7")
    with pytest.raises(ServerError, match=rf"it ended with exit code 7; its log is {tmp_path}/log"):
        process.wait_until(lambda: False, 20, "it")
    assert (tmp_path / "log").read_text() == "it broke\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_program_that_never_answers_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep", "1000")
    with pytest.raises(ServerError, match=r"it did not answer within 0\.2 seconds"):
        process.wait_until(lambda: False, 0.2, "it")
    assert not process.alive()


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    process = started(tmp_path, "sleep", "1000")

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.wait_until(interrupted, 20, "it")
    assert not process.alive()


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_children_that_ignore_everything_end_too(tmp_path: Path, way: str) -> None:
    script = "trap '' TERM; (trap '' TERM INT HUP; echo $BASHPID > child; exec sleep 1000) & wait"
    process = started(tmp_path, "bash", "-c", script)
    child = tmp_path / "child"
    assert poll(lambda: child.exists() and child.read_text().endswith("\n"))
    pid = int(child.read_text())
    assert not gone(pid)
    if way == "kill":
        process.kill()
    else:
        process.stop(0.2)
    assert gone(pid)
    assert not process.alive()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux is missing")
@pytest.mark.parametrize(("bound", "ends"), [("signal.SIGTERM", True), ("None", False)])
def test_a_bound_server_dies_with_the_one_that_started_it(
    tmp_path: Path, bound: str, ends: bool
) -> None:
    code = (
        "import os, signal, threading; from pathlib import Path;"
        "from ssprompt_platform.servers.processes import Process;"
        f"folder = Path({str(tmp_path)!r});"
        "start = lambda: print(Process(['sleep', '1000'], folder / 'log', folder, os.environ,"
        f"    {bound}).pid, flush=True);"
        # the end of the thread that asked for it is not the end of the process
        "thread = threading.Thread(target=start); thread.start(); thread.join();"
        "input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        assert not gone(pid)
        parent.kill()
        parent.wait()
        if ends:
            assert poll(lambda: gone(pid))
        else:
            assert not gone(pid)
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
        parent.stdout.close()
        parent.stdin.close()
