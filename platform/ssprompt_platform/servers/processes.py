"""A server as a process: its ports, starting it, waiting until it answers, ending it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from ssprompt_core.errors import UserError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="server-starter")
"""Linux ends a bound child with the *thread* that made it, so all are made by one that stays."""


class ServerError(Exception):
    """A server that did not start, or ended by itself; says where its log is."""


def check_port(port: int, what: str, advice: str) -> None:
    """Raise UserError where a port cannot be listened on.

    Args:
        port: Port of 127.0.0.1.
        what: The one that wants it, as in ``MLflow``.
        advice: How to choose another, as in ``choose another with --port``.

    Raises:
        UserError: It is no port, or it is taken; names the process that listens there.
    """
    if not 0 < port < 65536:
        raise UserError(f"port {port} of {what} does not exist; a port is between 1 and 65535")
    with socket.socket() as probe:
        # as the servers do: a port whose last connections are still fading is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            raise UserError(
                f"port {port} of {what} is reserved for the system's administrator; {advice}"
            ) from None
        except OSError:
            raise UserError(
                f"port {port} of {what} is taken by {listener(port)}; stop that, or {advice}"
            ) from None


def listener(port: int) -> str:
    """Who listens on a port, in words: its name and process id where the system tells them."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port:
                continue
            if connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        # macOS tells the administrator alone
        pass
    return "another process"


def free_ports(count: int) -> int:
    """The first of ``count`` neighbouring ports on which nobody listens.

    They lie below the range that the system gives to outgoing connections, so they stay free while
    a server on them is down.
    """
    for _ in range(200):
        first = random.randrange(20_000, 30_000 - count)
        try:
            for port in range(first, first + count):
                check_port(port, "", "")
        except UserError:
            continue
        return first
    raise ServerError(f"no {count} neighbouring free ports between 20000 and 30000")


class Process:
    """A server's process and its children, in a session of their own (Ctrl-C does not reach them).

    Args:
        command: Program and arguments; they may be seen by every user of the machine.
        log: File that both outputs are appended to; readable by its owner only.
        cwd: Working folder.
        environment: Replaces this process's environment.
        bound: Signal that Linux sends it when this process ends, however that comes; None lets the
            server outlive it.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        cwd: Path,
        environment: Mapping[str, str],
        bound: signal.Signals | None = signal.SIGTERM,
    ) -> None:
        self.log = log
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", bound.name[3:]] if setpriv and bound else []
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            self._popen = _STARTER.submit(
                subprocess.Popen,
                [*prefix, *command],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        """Id of the process that was started; its children share its process group."""
        return self._popen.pid

    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._popen.poll() is None

    def wait(self) -> int:
        """Wait until it ends by itself; returns its exit code."""
        return self._popen.wait()

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll until the server answers.

        Raises:
            ServerError: It ended, or did not answer in time; it is killed then.
        """
        deadline = time.monotonic() + seconds
        try:
            while not ready():
                if not self.alive():
                    raise ServerError(
                        f"{what} ended with exit code {self.wait()}; its log is {self.log}"
                    )
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{what} did not answer within {seconds:g} seconds; its log is {self.log}"
                    )
                time.sleep(_POLL_SECONDS)
        except BaseException:
            # Ctrl-C too leaves no half-started server behind
            self.kill()
            raise

    def stop(self, grace: float) -> None:
        """End it with TERM, and whatever is left after ``grace`` seconds with KILL."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End it and its children with KILL, and wait until all are gone."""
        members = _members(self.pid)
        self._signal(signal.SIGKILL)
        self._popen.wait()
        # a child that is not gone yet would still hold the port
        while any(_exists(member) for member in members):
            time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        # all may be gone, which macOS calls a lack of permission
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # children may outlive their parent; the group's number is not given anew before
            os.killpg(self.pid, number)


def _members(group: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group:
                members.append(process)
    return members


def _exists(process: psutil.Process) -> bool:
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.is_running())
        # its first thread has ended; others may still hold what it had open
        return int(process.num_threads()) > 1
    except psutil.NoSuchProcess:
        return False


def end_process(pid: int, grace: float) -> None:
    """End a process that an earlier one started, as ``Process.stop`` does."""
    try:
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(grace)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
    except psutil.NoSuchProcess:
        pass
