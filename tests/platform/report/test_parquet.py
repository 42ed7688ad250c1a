"""A study's Parquet tables: what was written is read again, columns tell meaning and unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from study_folder import CLASSES, write_study

from ssprompt_platform.report import schemas
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.report.parquet import write_tables

NAMES = ("rows", "scores", "comparisons", "curves", "trials")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    folder = write_study(
        tmp_path_factory.mktemp("runs"),
        methods=["zero_shot", "spa", "ssprompt"],
        failed=[("spa", 4, 1)],
        remarks=["chosen on a holdout"],
    )
    data = gather(folder)
    write_tables(data)
    return data


def read(data: StudyData, name: str) -> list[dict[str, Any]]:
    path = data.folder.report / "tables" / f"{name}.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_every_column_tells_its_meaning_and_every_table_its_version(study: StudyData) -> None:
    for name in NAMES:
        schema = pq.read_schema(study.folder.report / "tables" / f"{name}.parquet")
        assert schema.equals(getattr(schemas, name.upper()))
        about = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        assert about["schema_version"] == str(schemas.VERSION)
        assert (about["table"], about["study"], about["data"]) == (name, "made", "scenes")
        assert json.loads(about["remarks"]) == ["chosen on a holdout"]
        for field in schema:
            assert field.metadata[b"meaning"]
    schema = pq.read_schema(study.folder.report / "tables" / "trials.parquet")
    assert schema.field("seconds").metadata[b"unit"] == b"s"
    assert schema.field("value").metadata[b"unit"] == b"mIoU, 0 to 1"


def test_rows_are_those_of_the_results(study: StudyData) -> None:
    rows = read(study, "rows")
    assert len(rows) == len(study.rows) == 9
    for row, expected in zip(rows, study.rows, strict=True):
        same = ("method", "shots", "mean", "draws", "draw_numbers", "deterministic", "labelled")
        assert {name: row[name] for name in same} == {name: expected[name] for name in same}
        assert row["n"] == len(expected["draws"])
        interval = expected["ci95"] or [None, None]
        assert [row["ci95_low"], row["ci95_high"]] == interval
        assert [row["bootstrap95_low"], row["bootstrap95_high"]] == (
            expected["bootstrap95"] or [None, None]
        )
        assert (row["things"], row["stuff"]) == tuple(
            expected[side]["mean"] for side in ("things", "stuff")
        )
        assert json.loads(row["hyperparameters"]) == expected["best"]


def test_scores_have_every_class_of_every_finished_fit(study: StudyData) -> None:
    rows = read(study, "scores")
    # a score of zero_shot, and five draws of two methods at three K but for the failed one
    assert len(rows) == (1 + 29) * len(CLASSES)
    found = {(r["method"], r["shots"], r["draw"], r["class"]): r["iou"] for r in rows}
    assert ("spa", 4, 1, "sky") not in found
    for key, record in study.fits.items():
        own = [found[key.method, key.shots, key.draw, name] for name in CLASSES]
        assert own == record["iou"]
    assert {row["class"]: row["thing"] for row in rows} == {
        "ground": False, "sky": False, "box": True, "ball": True,
    }  # fmt: skip


def test_comparisons_name_both_sides(study: StudyData) -> None:
    rows = read(study, "comparisons")
    methods = [row for row in rows if row["family"] == "methods"]
    shots = [row for row in rows if row["family"] == "shots"]
    assert len(methods) == len(study.statistics["methods"]) == 9
    assert all(row["first_shots"] == row["second_shots"] for row in methods)
    assert all(row["labels_more"] is None for row in methods)
    assert {(r["first_method"], r["first_shots"], r["second_shots"]) for r in shots} == {
        (method, more, less) for method in ("spa", "ssprompt") for less, more in ((1, 4), (4, 16))
    }
    means = {(row["method"], row["shots"]): row["mean"] for row in study.rows}
    row = next(r for r in shots if (r["first_method"], r["first_shots"]) == ("ssprompt", 16))
    assert row["difference"] == pytest.approx(means["ssprompt", 16] - means["ssprompt", 4])
    assert row["ci95_low"] < row["difference"] < row["ci95_high"]
    assert row["gain_per_label"] == pytest.approx(row["difference"] / row["labels_more"])


def test_curves_have_their_band_and_answers(study: StudyData) -> None:
    rows = {row["method"]: row for row in read(study, "curves")}
    assert set(rows) == {"spa", "ssprompt"}
    row, curve = rows["ssprompt"], study.statistics["curves"]["ssprompt"]
    assert (row["a"], row["b"], row["c"]) == (curve["a"], curve["b"], curve["c"])
    assert [row["a_ci95_low"], row["a_ci95_high"]] == curve["ci95"]["a"]
    assert (row["measured"], row["reach"], row["refused"]) == ([1, 4, 16], 32, None)
    assert [at["shots"] for at in row["band"]] == [at["shots"] for at in curve["band"]]
    assert all(at["ci95_low"] <= at["mean"] <= at["ci95_high"] for at in row["band"])
    assert [to["statement"] for to in row["answers"]] == [
        to["statement"] for to in curve["answers"]
    ]


def test_a_curve_that_was_refused_says_why(tmp_path: Path) -> None:
    data = gather(write_study(tmp_path, methods=["spa"], shots=[1, 4], trials=0))
    write_tables(data)
    (row,) = read(data, "curves")
    assert "3 values of K" in row["refused"]
    assert (row["a"], row["band"]) == (None, None)


def test_trials_have_a_column_for_each_hyperparameter(study: StudyData) -> None:
    rows = read(study, "trials")
    assert len(rows) == len(study.trials) == 36
    for row, trial in zip(rows, study.trials, strict=True):
        assert (row["study"], row["number"], row["state"]) == (
            trial.study, trial.number, trial.state,
        )  # fmt: skip
        assert (row["value"], row["seconds"], row["cause"]) == (
            trial.value, trial.seconds, trial.cause,
        )  # fmt: skip
        assert (row["begun"], row["ended"]) == (trial.begun, trial.ended)
        assert dict(zip(row["rung_steps"], row["rung_values"], strict=True)) == trial.rungs
        assert {name: row[name] for name in trial.params} == trial.params
    assert {row["lr_probe"] for row in rows} == {None}


@pytest.mark.parametrize("stage", ["begun", "searching", "fitting"])
def test_tables_of_an_unfinished_study_hold_what_there_is(tmp_path: Path, stage: Any) -> None:
    data = gather(write_study(tmp_path, stage=stage))
    paths = write_tables(data, tmp_path / "elsewhere")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"elsewhere/tables/{name}.parquet" for name in NAMES
    ]
    tables = {path.stem: pq.read_table(path) for path in paths}
    assert tables["rows"].num_rows == len(data.rows)
    assert tables["trials"].num_rows == len(data.trials)
    assert not data.folder.report.exists()
