"""Keeps the actors of a search: those that have nothing to do for now, and those that start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache


class _KeptActors(_ObjectCache):  # type: ignore[misc]  # Ray ships no types
    """Ray Tune's cache of idle actors, of which it keeps one only where no trial is waiting.

    A searcher that proposes when several trials have ended has none waiting at that moment: all
    workers but one would be ended, and new ones started (seconds of imports each) a moment later.
    """

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keep an actor whose trial has ended."""
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Actors to end: all of them when the search is over, none before."""
        if force_all:
            yield from super().flush_cached_objects(force_all=True)


def _reuse_patiently(controller: Any, trial: Any) -> bool:
    """Give a trial an idle actor, unless an actor of its own is starting.

    Ray Tune would end that one. Where trials take less time than the start of an actor (seconds of
    imports), an idle one always comes first, and the search would run on its first actor alone. An
    actor that has its resources will start; one that still waits for them may wait for ever, for
    those of the idle one.
    """
    own = controller._trial_to_actor.get(trial)
    if (
        own is not None
        and trial not in controller._resetting_trials
        and controller._actor_manager.is_actor_started(own)
    ):
        return False
    reused: bool = _reuse(controller, trial)
    return reused


_reuse = tune_controller.TuneController._maybe_reuse_cached_actor


@contextmanager
def actors_kept() -> Iterator[None]:
    """Tune runs that begin and end within it end no actor before they end themselves.

    Their trials must all ask for the same resources: an idle actor holds what it was given.
    """
    usual, controller = tune_controller._ObjectCache, tune_controller.TuneController
    tune_controller._ObjectCache = _KeptActors
    controller._maybe_reuse_cached_actor = _reuse_patiently
    try:
        yield
    finally:
        tune_controller._ObjectCache = usual
        controller._maybe_reuse_cached_actor = _reuse
