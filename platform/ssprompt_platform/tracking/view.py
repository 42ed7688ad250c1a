"""A view of a study's runs in the MLflow UI that has the columns that differ, and no others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

TAG = "mlflow.sharedViewState."
"""With a key behind it, a tag of an experiment that holds what the UI shows for that key."""

_KEY_LENGTH = 16
_WIDTH, _HEIGHT = 420, 420
_MOST_RUNS = 100
_MODE = "workflowType=machine_learning"
"""Else the UI opens for language models, whose runs have other columns."""


def view_key(uid: str) -> str:
    """Key of a study's view, as the UI's address has it."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_KEY_LENGTH]


def view_state(uid: str, params: Sequence[str], metrics: Sequence[str]) -> str:
    """What the UI shows: runs of the study alone, the best trials first, and some columns.

    Its charts begin with parallel coordinates of the parameters and the first metric.

    Args:
        uid: Of the study.
        params: Parameters that differ between its trials.
        metrics: Metrics to show; the first one gives the order, by which the UI shows children
            beside their parent and not below it.
    """
    differs = "tags.`differs`"
    columns = [f"metrics.`{name}`" for name in metrics]
    columns += [f"params.`{name}`" for name in params]
    columns.append(differs)
    state = {
        "searchFilter": f"tags.`study.uid` = '{uid}'",
        "orderByKey": columns[0],
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {differs: _WIDTH},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [
            _section("search", "Search", reordered=True) | {"columns": 1, "cardHeight": _HEIGHT},
            _section("metrics", "Model metrics"),
            _section("system", "System metrics", display=False),
        ],
        "compareRunCharts": [
            {
                "uuid": "parallel",
                "type": "PARALLEL",
                "deleted": False,
                "isGenerated": False,
                "metricSectionId": "search",
                "runsCountToCompare": _MOST_RUNS,
                "selectedParams": list(params),
                "selectedMetrics": list(metrics[:1]),
                "showAllRuns": True,
            }
        ],
    }
    return json.dumps(state)


def view_link(base: str, experiment: str, uid: str = "") -> str:
    """Address of an experiment's runs in a UI at ``base``, as a study's view where one is given."""
    view = f"viewStateShareKey={view_key(uid)}&" if uid else ""
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?{view}{_MODE}"


def _section(
    uuid: str, name: str, *, display: bool = True, reordered: bool = False
) -> dict[str, object]:
    return {"uuid": uuid, "name": name, "display": display, "isReordered": reordered}
