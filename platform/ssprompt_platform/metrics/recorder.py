"""Hands values to Ray's metrics, from the driver and from workers, and never in the way.

Nothing here imports Ray: storage is used by jobs that never start it. What happens before a process
is connected is held (a counter's sum, a gauge's last value) and told with the first value after.

Ray drops a gauge that was not set for two of its reports (20 s), so one that does not change must
be set again and again: :func:`refresh`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from ssprompt_platform.metrics.names import PREFIX, Metric

_Key = tuple[Metric, tuple[str, ...]]
_lock = threading.Lock()
_held: dict[_Key, float] = {}
_shown: dict[_Key, float] = {}
_instruments: dict[Metric, Any] = {}


def count(metric: Metric, by: float = 1.0, **labels: object) -> None:
    """Add to a counter; nothing happens where ``by`` is not positive."""
    if by > 0:
        _tell(metric, by, labels)


def show(metric: Metric, value: float, **labels: object) -> None:
    """Set a gauge."""
    _tell(metric, value, labels)


def observe(metric: Metric, value: float, **labels: object) -> None:
    """Add a value to a histogram; without Ray it is dropped."""
    _tell(metric, value, labels)


def refresh() -> None:
    """Set every gauge of this process to its value again."""
    if _connected():
        with _lock:
            for key, value in _shown.items():
                _record(key, value)


def forget(label: str, value: str) -> None:
    """Refresh no longer the gauges that have this label: what they tell of has ended."""
    with _lock:
        for metric, values in list(_shown):
            if dict(zip(metric.labels, values, strict=True)).get(label) == value:
                del _shown[metric, values]


def _tell(metric: Metric, value: float, labels: dict[str, object]) -> None:
    if labels.keys() != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
    key = metric, tuple(str(labels[name]) for name in metric.labels)
    connected = _connected()
    with _lock:
        if not connected:
            _hold(key, value)
            return
        waiting = list(_held.items())
        _held.clear()
        for held, held_value in [*waiting, (key, value)]:
            _record(held, held_value)


def _connected() -> bool:
    """Whether this process belongs to a cluster; without importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


def _hold(key: _Key, value: float) -> None:
    metric, _ = key
    if metric.kind == "counter":
        value += _held.get(key, 0.0)
    if metric.kind != "histogram":
        _held[key] = value


def _record(key: _Key, value: float) -> None:
    metric, values = key
    instrument, tags = _instrument(metric), dict(zip(metric.labels, values, strict=True))
    if metric.kind == "counter":
        instrument.inc(value, tags)
    elif metric.kind == "gauge":
        _shown[key] = value
        instrument.set(value, tags)
    else:
        instrument.observe(value, tags)


def _instrument(metric: Metric) -> Any:
    if metric not in _instruments:
        from ray.util import metrics

        name = PREFIX + metric.name
        if metric.kind == "histogram":
            made = metrics.Histogram(name, metric.meaning, list(metric.bounds), metric.labels)
        else:
            kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
            made = kind(name, metric.meaning, metric.labels)
        _instruments[metric] = made
    return _instruments[metric]
