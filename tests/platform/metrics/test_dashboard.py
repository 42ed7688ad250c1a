"""The dashboard asks for nothing that is not exported, and shows what it promises."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus import Scrape, scrape_until
from samples import ROOT

from ssprompt_platform.metrics import names

DASHBOARD = ROOT / "k8s" / "base" / "monitoring" / "dashboards" / "ssprompt.json"
_METRIC = re.compile(r"\bray_\w+")
_SELECTED = re.compile(r"\b(ray_\w+)\{([^}]*)\}")
_GROUPED = re.compile(r"by \(([^)]*)\)")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: dict[str, Any]) -> list[str]:
    shown = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    asked = [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]
    return shown + asked


def own_series() -> dict[str, names.Metric]:
    """Series of the platform; the test of exported metrics reads these off the endpoint."""
    return {
        metric.exported + suffix: metric
        for metric in names.ALL
        for suffix in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
    }


def gpu_series() -> set[str]:
    """What Ray's agent tells of a machine, GPUs or not; its own table of them."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    return {f"ray_{name}" for name in METRICS_GAUGES}


def test_every_panel_asks_and_no_two_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels(dashboard):
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard, "an id of one Grafana means nothing to another"


def test_every_metric_of_the_platform_is_shown(dashboard: dict[str, Any]) -> None:
    asked = {name for text in expressions(dashboard) for name in _METRIC.findall(text)}
    known = own_series()
    shown = {known[name].name for name in asked if name in known}
    assert shown == {metric.name for metric in names.ALL}


def test_labels_are_those_of_the_metrics(dashboard: dict[str, Any]) -> None:
    known = own_series()
    for text in expressions(dashboard):
        for name, selector in _SELECTED.findall(text):
            labels = re.findall(r"(\w+)\s*[=!]", selector)
            if name in known:
                assert set(labels) <= {*known[name].labels, "le"}, text
        used = [known[name] for name in _METRIC.findall(text) if name in known]
        for names_of_group in _GROUPED.findall(text) if used else ():
            allowed = {label for metric in used for label in metric.labels} | {"le"}
            assert {each.strip() for each in names_of_group.split(",")} <= allowed, text
        # a counter without a rate is a number since some process began
        for metric in used:
            if metric.kind == "counter":
                assert re.search(rf"rate\({metric.exported}", text), text


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_every_other_metric_is_one_that_ray_exports(dashboard: dict[str, Any]) -> None:
    asked = {name for text in expressions(dashboard) for name in _METRIC.findall(text)}
    of_ray = asked - own_series().keys()
    gpus = {name for name in of_ray if "gpu" in name or "gram" in name}
    assert gpus
    assert gpus <= gpu_series()

    def all_there(scrape: Scrape) -> bool:
        return of_ray - gpus <= scrape.names

    found = scrape_until(all_there)
    assert of_ray - gpus <= found.names, of_ray - gpus - found.names
    # labels that the expressions name
    for name, labels in (
        ("ray_resources", {"Name", "State"}),
        ("ray_object_store_memory", {"Location"}),
    ):
        for sample in found.having(name):
            assert labels <= sample.labels.keys(), name
    states = {sample.labels["State"] for sample in found.having("ray_resources")}
    assert "USED" in states
