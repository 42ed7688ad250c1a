"""What the machines of a cluster have, and how many workers fit on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

Machine = Mapping[str, float]
"""Resources of one machine by Ray's names: ``CPU``, ``GPU``."""

_SLACK = 1e-6
"""Parts of a GPU, such as thirds, do not add up exactly."""


def cluster_machines() -> list[Machine]:
    """The living machines of the cluster that this process has joined."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def total(machines: Iterable[Machine], name: str) -> float:
    """Sum of a resource over machines."""
    return sum(machine.get(name, 0.0) for machine in machines)


def room(machines: Iterable[Machine], worker: Machine) -> int:
    """Workers that fit at once: each on one machine, a part of a GPU within one GPU.

    Args:
        machines: What each has.
        worker: What each worker takes; ``CPU`` above 0.
    """
    return sum(
        min(_times(machine.get(name, 0.0), amount, name) for name, amount in worker.items())
        for machine in machines
    )


def _times(has: float, amount: float, name: str) -> int:
    if name == "GPU" and amount < 1:
        # Ray never makes one worker's part from what is left of two GPUs
        return math.floor(has + _SLACK) * math.floor(1 / amount + _SLACK)
    return math.floor(has / amount + _SLACK)
