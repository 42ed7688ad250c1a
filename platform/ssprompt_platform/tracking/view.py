"""A view of a study's runs in the MLflow UI that has the columns that differ, and no others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

TAG = "mlflow.sharedViewState."
"""With a key behind it, a tag of an experiment that holds what the UI shows for that key."""

_KEY_LENGTH = 16
_WIDTH = 420


def view_key(uid: str) -> str:
    """Key of a study's view, as the UI's address has it."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_KEY_LENGTH]


def view_state(uid: str, params: Sequence[str], metrics: Sequence[str]) -> str:
    """What the UI shows: runs of the study alone, the best trials first, and some columns.

    Args:
        uid: Of the study.
        params: Parameters that differ between its trials.
        metrics: Metrics to show; the first one gives the order, by which the UI shows children
            beside their parent and not below it.
    """
    differs = "tags.`differs`"
    columns = [*(f"metrics.`{name}`" for name in metrics), differs]
    columns += [f"params.`{name}`" for name in params]
    state = {
        "searchFilter": f"tags.`study.uid` = '{uid}'",
        "orderByKey": columns[0],
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {differs: _WIDTH},
    }
    return json.dumps(state)


def view_link(base: str, experiment: str, uid: str) -> str:
    """Address of the view in a UI at ``base``."""
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={view_key(uid)}"
