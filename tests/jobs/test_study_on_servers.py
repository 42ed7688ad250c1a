"""A study on real servers that are killed (-9) under it ends as the same study does on a disk."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from finished_studies import assert_finished, metrics_by_key, runs_by_key
from PIL import Image
from safetensors.numpy import load
from served_study import TRIALS, ServedStudy

from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import S3Path, read_json

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def environment(served: ServedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads the bucket reads it as its owner."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)


def test_the_numbers_are_those_of_the_disk(served: ServedStudy) -> None:
    on_disk, on_servers = read_json(served.disk.results), read_json(served.bucket.results)
    for part in ("rows", "per_class", "statistics", "front", "failed", "missing"):
        assert on_servers[part] == on_disk[part], part
    assert on_servers["study"]["finished"]
    trials = [
        [(t.key, t.state, t.params, t.value, t.scores) for t in read_trials(folder)]
        for folder in (served.disk, served.bucket)
    ]
    assert trials[0] == trials[1]
    assert len(trials[0]) == TRIALS


def test_no_artifact_is_missing_and_none_is_truncated(served: ServedStudy) -> None:
    assert isinstance(served.bucket.path, S3Path)
    assert isinstance(served.disk.path, Path)
    there = {str(found.path.relative_to(served.bucket.path)) for found in served.bucket.path.walk()}
    local = {
        str(p.relative_to(served.disk.path)) for p in served.disk.path.rglob("*") if p.is_file()
    }
    own = ("ray/", ".lock", "tracking/")
    expected = {name for name in local if not name.startswith(own)}
    assert {name for name in there if name and not name.startswith(own)} == expected
    for name in expected:
        content = (served.bucket.path / name).read_bytes()
        if name.endswith(".png"):
            Image.open(io.BytesIO(content)).load()
        elif name.endswith(".safetensors"):
            assert load(content)
        elif name.endswith(".parquet"):
            pq.read_table(io.BytesIO(content)).validate(full=True)
        elif name.endswith(".html"):
            assert content.rstrip().endswith(b"</html>")
        elif name.endswith(".json"):
            read_json(served.bucket.path / name)


def test_every_metric_of_every_step_is_there_once(served: ServedStudy) -> None:
    complete = [trial.key for trial in read_trials(served.disk) if trial.state == "complete"]
    rows = read_json(served.disk.results)["rows"]
    finals = [f"{row['method']}-k{row['shots']}-final" for row in rows]
    assert_finished(runs_by_key(served.bucket, served.client), [*complete, *finals])
    values = metrics_by_key(served.bucket, served.client)
    assert values == metrics_by_key(served.disk)
    for key in complete:
        assert [step for step, _ in values[key]["train.loss"]] == [1, 2, 3], key


def test_a_second_process_is_told_who_runs_the_study(served: ServedStudy) -> None:
    (line,) = [line for line in served.second.splitlines() if line.startswith("error:")]
    assert "study one is being run by process" in line
    assert os.uname().nodename in line


def test_outages_are_told_in_lines_and_not_by_tracebacks(served: ServedStudy) -> None:
    assert "Traceback" not in served.said
    assert "MLflow" in served.said


def test_no_secret_is_anywhere(served: ServedStudy) -> None:
    assert served.leaked == []


def test_artifacts_of_the_runs_can_be_fetched(served: ServedStudy, tmp_path: Path) -> None:
    runs = runs_by_key(served.bucket, served.client)
    for key, names in {
        "study": ["report/index.html", "results.json"],
        "ssprompt-k2-final": ["prompts/ssprompt-k2-d0.safetensors"],
    }.items():
        for name in names:
            path = served.client.download_artifacts(runs[key].info.run_id, name, str(tmp_path))
            stored = (
                served.bucket.path / name
                if key == "study"
                else served.bucket.fits / name.removeprefix("prompts/")
            )
            assert Path(path).read_bytes() == stored.read_bytes()
