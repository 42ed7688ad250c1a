"""Hands out final fits to workers and judges what the deaths of workers mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.train import ControllerError, UserCallback

from ssprompt_platform import checkpoints
from ssprompt_platform.cluster import free_placement_groups
from ssprompt_platform.fit_files import Best, fail, running_path, settled
from ssprompt_platform.plan import FitKey
from ssprompt_platform.storage import Place, StorageError
from ssprompt_platform.storage.errors import storage_fault

MOST_DEATHS = 3
"""Deaths of a worker at the same point after which a fit counts as failed."""
_MOST_TROUBLES = 3
_NO_RANK = -1
"""Of a worker that died before it had one."""


class FitQueue:
    """The fits to do; a worker that asks again without a result gets the same fits again.

    A worker takes one fit, or several of one method and K to train as one batch: never more than
    its part of what is left, so that no batch leaves another worker without work.

    Ray Train replaces all workers when one of them dies: those that were stopped for another's sake
    do not count as dead. Where a worker dies in a batch nobody knows by which fit: from then on
    each of them is handed out alone, and deaths are counted.

    Args:
        keys: The fits, in the order in which they are handed out.
        fits: Folder of the fits' files.
        best: Chosen hyperparameters of every group.
        together: Fits of a batch, at most.
        workers: Workers that ask.
    """

    def __init__(
        self,
        keys: Sequence[FitKey],
        fits: Place,
        best: Best,
        *,
        together: int = 1,
        workers: int = 1,
    ) -> None:
        self._waiting, self._fits, self._best = list(keys), fits, best
        self._together, self._workers = together, workers
        self._alone: set[FitKey] = set()
        self._held: dict[int, list[FitKey]] = {}
        self._at_work: set[int] = set()
        self._deaths: dict[FitKey, tuple[int, int]] = {}
        self._idle_deaths = 0
        self._errors = 0

    def take(self, rank: int) -> list[FitKey]:
        """The next fits of a worker; none when all are handed out."""
        self._at_work.add(rank)
        held = self._held.pop(rank, [])
        left = self._unsettled(held)
        if len(left) < len(held):
            self._idle_deaths = 0
        # of a worker that was replaced: what it had begun comes first
        self._waiting = left + self._waiting
        taken = self._batch(len(left))
        if taken:
            self._held[rank] = taken
        return taken

    def _batch(self, begun: int) -> list[FitKey]:
        """Take the first of the waiting fits, and those that share its batch.

        Args:
            begun: How many of them are a batch already; 0: none.
        """
        if not self._waiting:
            return []
        first = self._waiting[0]
        share = math.ceil(len(self._waiting) / self._workers)
        most = begun or min(self._together, share)
        batch = [first]
        if first not in self._alone:
            kin = [k for k in self._waiting[1:] if k.group == first.group and k not in self._alone]
            batch += kin[: most - 1]
        self._waiting = [key for key in self._waiting if key not in batch]
        return batch

    def _unsettled(self, keys: Sequence[FitKey]) -> list[FitKey]:
        return [key for key in keys if not settled(self._fits, key)]

    def lost(self, dead: Sequence[int], raised: Sequence[str]) -> str | None:
        """Count workers that were lost; say why the run must end, if it must.

        A fit whose worker died so often without a new checkpoint is recorded as failed.

        Args:
            dead: Ranks of workers that were killed, all at once.
            raised: Errors that workers raised. They keep those of a fit to themselves, so these are
                of something that all fits need, such as storage.
        """
        for rank in dead:
            held = self._held.get(rank, []) if rank in self._at_work else []
            left = self._unsettled(held)
            if not left:
                self._idle_deaths += 1
            elif len(left) > 1:
                self._alone.update(left)
            else:
                self._died(left[0])
        self._at_work.clear()
        self._errors += len(raised)
        if raised and self._errors >= _MOST_TROUBLES:
            return raised[0]
        if self._idle_deaths >= _MOST_TROUBLES:
            return f"workers died {self._idle_deaths} times before they had begun a fit"
        return None

    def _died(self, key: FitKey) -> None:
        found = checkpoints.load(running_path(self._fits, key))
        epoch = len(found[0]["history"]) if found else 0
        reached, count = self._deaths.get(key, (epoch, 0))
        count = count + 1 if reached == epoch else 1
        self._deaths[key] = (epoch, count)
        if count >= MOST_DEATHS:
            where = f"after epoch {epoch}" if epoch else "before its first checkpoint"
            cause = f"its worker died {count} times {where}: killed by the system, out of memory?"
            fail(self._fits, key, self._best[key.group], cause)


def run_again_where_lost(start: Callable[[], None], queue: Any) -> None:
    """Run the fits, and again where a worker was lost while Ray Train was starting it.

    Such a death is an error of Ray Train's controller, which it does not recover from by itself.

    Args:
        start: Runs Ray Train to its end.
        queue: Handle of a :class:`FitQueue` actor, which counts these deaths too.

    Raises:
        RuntimeError: Workers died too often before they had begun a fit.
        StorageError: The storage failed too often.
    """
    while True:
        try:
            start()
            return
        except ray.exceptions.RayActorError as error:
            # the controller itself did not start
            fault = storage_fault(error)
            if fault is None:
                raise
            raise fault from error
        except ControllerError as error:
            # a controller that ends on an error keeps the resources of its workers
            free_placement_groups()
            fault = storage_fault(error)
            if fault is not None:
                raise fault from error
            if not isinstance(error.controller_failure, ray.exceptions.RayActorError):
                raise
            reason = ray.get(queue.lost.remote([_NO_RANK], []))
            if reason is not None:
                raise RuntimeError(f"the final fits cannot go on: {reason}") from error


class LostWorkers(UserCallback):  # type: ignore[misc]  # Ray ships no types
    """Tells the queue which workers were lost, before Ray Train replaces them all.

    Args:
        queue: Handle of a :class:`FitQueue` actor.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """End the run where no replacement can help; called in Ray Train's controller.

        Raises:
            RuntimeError: Why it must end.
            StorageError: The same, where the storage failed.
        """
        dead, raised = [], []
        storage: StorageError | None = None
        for rank, error in worker_exceptions.items():
            # Ray Train wraps what its health check saw
            failure = getattr(error, "health_check_failure", None)
            if failure is None:
                raised.append(f"{type(error).__name__}: {error}")
                storage = storage_fault(error) or storage
            elif not getattr(failure, "preempted", False):
                dead.append(rank)  # a node that is taken away is no fault of the fit
        reason = ray.get(self._queue.lost.remote(dead, raised))
        if reason is not None:
            raise storage or RuntimeError(f"the final fits cannot go on: {reason}")
