"""Keeps the actors of a search between trials, however many of them have nothing to do for now."""

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


@contextmanager
def actors_kept() -> Iterator[None]:
    """Tune runs that begin within it end no actor before they end themselves.

    Their trials must all ask for the same resources: an idle actor holds what it was given.
    """
    usual = tune_controller._ObjectCache
    tune_controller._ObjectCache = _KeptActors
    try:
        yield
    finally:
        tune_controller._ObjectCache = usual
