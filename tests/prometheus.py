"""Reads the metrics that a node of the connected Ray cluster exports."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray
from prometheus_client.parser import text_string_to_metric_families

_OF_RAY = ("Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId", "NodeId")


@dataclass(frozen=True)
class Sample:
    """A series of a scrape, with the labels that Ray does not add by itself."""

    name: str
    labels: Mapping[str, str]
    value: float


class Scrape:
    """What the Prometheus endpoint of the first node says now."""

    def __init__(self) -> None:
        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=20) as answer:
            text = answer.read().decode()
        self.kinds: dict[str, str] = {}
        self.samples: list[Sample] = []
        for family in text_string_to_metric_families(text):
            for found in family.samples:
                own = {
                    name: value
                    for name, value in found.labels.items()
                    if name not in _OF_RAY and not name.startswith("otel_")
                }
                self.kinds[found.name] = family.type
                self.samples.append(Sample(found.name, own, found.value))

    @property
    def names(self) -> set[str]:
        return set(self.kinds)

    def total(self, name: str, **labels: str) -> float:
        """Sum over the series with these labels, as PromQL's ``sum`` has it."""
        return sum(each.value for each in self.having(name, **labels))

    def having(self, name: str, **labels: str) -> list[Sample]:
        return [
            each
            for each in self.samples
            if each.name == name and labels.items() <= each.labels.items()
        ]


def scrape_until(condition: Callable[[Scrape], bool], seconds: float = 60) -> Scrape:
    """Scrape until something is there: processes report to the endpoint every ten seconds."""
    end = time.monotonic() + seconds
    while True:
        found = Scrape()
        if condition(found) or time.monotonic() > end:
            return found
        time.sleep(0.3)
