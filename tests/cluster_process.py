"""A Ray cluster of several nodes in a process of its own, told by lines what to do.

``add CPUS`` starts a node and prints its id; ``kill ID`` kills a node as a machine is lost, without
a word; ``end`` stops everything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent


class ClusterProcess:
    """Nodes of one cluster on this machine; its head has no CPUs, as in production."""

    def __init__(self) -> None:
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.address = self._answer()

    def add(self, cpus: int = 1) -> str:
        """Start a node; returns its id in Ray."""
        return self._ask(f"add {cpus}")

    def kill(self, node: str) -> None:
        """Kill a node and all its processes."""
        self._ask(f"kill {node}")

    def lose(self) -> None:
        """Kill the head and all nodes at once, as when all machines are lost."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """Stop everything."""
        self._end(signal.SIGTERM)

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver that joins."""
        return {
            **os.environ,
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "disabled",
            "PYTHONUNBUFFERED": "1",
        }

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster's process has ended"
        return line

    def _end(self, number: int) -> None:
        import psutil

        try:
            family = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        if number == signal.SIGTERM and self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.kill()
        self._process.wait(30)


@contextmanager
def cluster() -> Iterator[ClusterProcess]:
    started = ClusterProcess()
    try:
        yield started
    finally:
        started.end()


def main() -> None:
    from ray.cluster_utils import Cluster

    nodes = {}
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            # a lost machine is noticed in seconds instead of half a minute
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 500,
                "health_check_timeout_ms": 2000,
                "health_check_failure_threshold": 4,
            },
        },
    )
    out = os.fdopen(os.dup(sys.__stdout__.fileno()), "w") if sys.__stdout__ else sys.stdout
    print(made.address, file=out, flush=True)
    for line in sys.stdin:
        what, _, argument = line.strip().partition(" ")
        if what == "add":
            node = made.add_node(num_cpus=int(argument))
            nodes[node.node_id] = node
            print(node.node_id, file=out, flush=True)
        else:
            made.remove_node(nodes.pop(argument), allow_graceful=False)
            print("killed", file=out, flush=True)
    # a daemon thread: whoever started this waits only so long
    ending = threading.Thread(target=made.shutdown, daemon=True)
    ending.start()
    ending.join(20)


if __name__ == "__main__":
    main()
