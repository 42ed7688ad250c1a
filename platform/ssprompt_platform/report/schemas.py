"""Schemas of a study's Parquet tables: each column with its meaning and unit."""

from __future__ import annotations

from dataclasses import fields

import pyarrow as pa

from ssprompt_core.methods import MethodSettings
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.search.space import FIT_HYPERPARAMETERS

VERSION = 1
"""Of the schemas, in the metadata of every table."""

MIOU = "mIoU, 0 to 1"
IOU = "IoU, 0 to 1"
IMAGES = "images"
SECONDS = "s"


def _field(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    metadata = {"meaning": meaning, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=metadata)


_TEXT, _WHOLE, _REAL, _YES = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TIME = pa.timestamp("us")
_METHOD = _field("method", _TEXT, "method")
_SHOTS = _field("shots", _WHOLE, "K: labelled support images per class", "images per class")
_LABELLED = _field(
    "labelled", _REAL, "distinct labelled images that K costs, mean over draws", IMAGES
)


def _interval(prefix: str, meaning: str, unit: str) -> list[pa.Field]:
    return [
        _field(f"{prefix}_low", _REAL, f"{meaning}: lower end", unit),
        _field(f"{prefix}_high", _REAL, f"{meaning}: upper end", unit),
    ]


def _hyperparameters() -> list[pa.Field]:
    """A column for everything that can be searched, by the type of its default."""
    method, train = MethodSettings(), TrainConfig()
    defaults = {field.name: getattr(method, field.name) for field in fields(method)}
    defaults |= {name: getattr(train, name) for name in FIT_HYPERPARAMETERS}
    kinds = {str: _TEXT, int: _WHOLE, float: _REAL, bool: _YES}
    return [
        _field(name, kinds[type(value)], f"hyperparameter {name}; null where it has none")
        for name, value in defaults.items()
    ]


_BAND = pa.struct(
    [
        _SHOTS,
        _field("mean", _REAL, "fitted mean", MIOU),
        *_interval("ci95", "95 % interval over resampled draws", MIOU),
        _LABELLED,
        _field("extrapolated", _YES, "beyond the largest K measured"),
    ]
)

_ANSWER = pa.struct(
    [
        _field("target", _REAL, "what is asked for", MIOU),
        _field("status", _TEXT, "answered, met, beyond_reach, never or flat"),
        _field("shots", _WHOLE, "smallest K that reaches it", "images per class"),
        _field("shots_low", _WHOLE, "95 % interval: lower end", "images per class"),
        _field("shots_high", _WHOLE, "upper end; null beyond the reach", "images per class"),
        _LABELLED,
        _field("statement", _TEXT, "the answer in words"),
    ]
)

ROWS = pa.schema(
    [
        _METHOD,
        _SHOTS,
        _LABELLED,
        _field("mean", _REAL, "mean over draws, on the test split", MIOU),
        *_interval("ci95", "95 % interval of the mean by Student's t; null for one draw", MIOU),
        *_interval("bootstrap95", "95 % interval of the mean by bootstrap over draws", MIOU),
        _field("n", _WHOLE, "finished draws", "draws"),
        _field("draws", pa.list_(_REAL), "value of each draw", MIOU),
        _field("draw_numbers", pa.list_(_WHOLE), "number of each draw"),
        _field("deterministic", _YES, "learns nothing: one value for all K and draws"),
        _field("things", _REAL, "mean over foreground classes; null where unknown", IOU),
        *_interval("things_ci95", "its 95 % interval by Student's t", IOU),
        _field("stuff", _REAL, "mean over background classes; null where unknown", IOU),
        *_interval("stuff_ci95", "its 95 % interval by Student's t", IOU),
        _field("trainable_parameters", _WHOLE, "trained numbers", "numbers"),
        _field("hyperparameters", _TEXT, "the chosen ones, as JSON"),
    ]
)

SCORES = pa.schema(
    [
        _METHOD,
        _SHOTS,
        _field("draw", _WHOLE, "number of the support draw"),
        _field("class_id", pa.int32(), "label id"),
        _field("class", _TEXT, "class name"),
        _field("thing", _YES, "foreground; null where the data does not tell"),
        _field("iou", _REAL, "over all test images; null where no label shows the class", IOU),
    ]
)

COMPARISONS = pa.schema(
    [
        _field("family", _TEXT, "methods: two methods at one K; shots: one method at two K"),
        _field("first_method", _TEXT, "method of the first side"),
        _field("first_shots", _WHOLE, "K of the first side", "images per class"),
        _field("second_method", _TEXT, "method of the second side"),
        _field("second_shots", _WHOLE, "K of the second side", "images per class"),
        _field("difference", _REAL, "mean of first minus second on the same draws", MIOU),
        *_interval("ci95", "95 % interval of the difference by Student's t", MIOU),
        _field("p", _REAL, "of the paired t-test, two-sided", "probability"),
        _field("p_holm", _REAL, "the same, corrected over the family (Holm)", "probability"),
        _field("n", _WHOLE, "pairs", "draws"),
        _field("family_size", _WHOLE, "tests that p_holm is corrected for", "tests"),
        _field("labels_more", _REAL, "family shots: further images that the first K costs", IMAGES),
        _field("gain_per_label", _REAL, "family shots: difference by further image", "mIoU/image"),
        _field("significant", _YES, "p_holm < 0.05"),
        _field("statement", _TEXT, "the comparison in words"),
    ]
)


CURVES = pa.schema(
    [
        _METHOD,
        _field("refused", _TEXT, "why no curve was fitted; null where one was"),
        _field("a", _REAL, "mIoU(K) = a - b K^-c: where it levels off", MIOU),
        *_interval("a_ci95", "95 % interval of a over resampled draws", MIOU),
        _field("b", _REAL, "b; 0: the scores do not grow with K", MIOU),
        *_interval("b_ci95", "95 % interval of b over resampled draws", MIOU),
        _field("c", _REAL, "c: how fast it levels off"),
        *_interval("c_ci95", "95 % interval of c over resampled draws", ""),
        _field("measured", pa.list_(_WHOLE), "K that the curve is fitted to", "images per class"),
        _field("draws", _WHOLE, "draws that it is fitted to", "draws"),
        _field("reach", _WHOLE, "largest K that it answers for", "images per class"),
        _field("growth", _TEXT, "whether mIoU grows with K: grows, unsure or none"),
        _field("statement", _TEXT, "the curve in words"),
        _field("band", pa.list_(_BAND), "fitted mIoU at whole K up to the reach"),
        _field("answers", pa.list_(_ANSWER), "smallest K that reaches an mIoU"),
    ]
)

TRIALS = pa.schema(
    [
        _field("study", _TEXT, "its Optuna study, without the id of the study"),
        _field("number", _WHOLE, "number in that study"),
        _METHOD,
        _SHOTS,
        _LABELLED,
        _field("state", _TEXT, "complete, pruned, failed, duplicate or running"),
        _field("value", _REAL, "mean over the search's draws, on the selection images", MIOU),
        _field("scores", pa.list_(_REAL), "value of each support draw that it finished", MIOU),
        _field("rung_steps", pa.list_(_WHOLE), "epochs or draws at which it was judged"),
        _field("rung_values", pa.list_(_REAL), "the values it was judged by", MIOU),
        _field("seconds", _REAL, "time in a worker, over all parts", SECONDS),
        _field("cause", _TEXT, "why it failed"),
        _field("duplicate_of", _WHOLE, "number of the equal trial before it"),
        _field("begun", _TIME, "when it was proposed, local time of the driver"),
        _field("ended", _TIME, "when it ended, local time of the driver"),
        *_hyperparameters(),
    ]
)
