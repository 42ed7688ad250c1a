"""What the platform records is what Ray's Prometheus endpoint says: names, labels and values."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus import scrape_until
from synthetic import PlantedWork, lines, planted_plan, play, searcher

from ssprompt_platform.config.schema import Config
from ssprompt_platform.metrics import names, recorder
from ssprompt_platform.metrics.fits import FitMetrics
from ssprompt_platform.metrics.recorder import count, observe, show
from ssprompt_platform.metrics.search import SearchMetrics
from ssprompt_platform.metrics.study import StudyMetrics
from ssprompt_platform.plan import FitKey
from ssprompt_platform.search.records import read_trials
from ssprompt_platform.search.trial import TrialTask
from ssprompt_platform.storage import StudyFolder

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]

TRIALS, EPOCHS = 3, 2


def run_planted(root: Path, study: str) -> StudyFolder:
    def fails_once(task: TrialTask, epoch: int) -> None:
        if task.key == "linear_probe-k1-t001":
            raise ValueError("planted")

    folder = StudyFolder(root, study)
    config = Config()
    config.study.methods, config.study.shots = ["spa", "linear_probe"], [1]
    config.search.trials, config.search.draws, config.train.epochs = TRIALS, 1, EPOCHS
    search = searcher(folder, config, planted_plan(("spa", "linear_probe"), (1,)))
    search.observe(SearchMetrics(study, search.totals(), read_trials(folder)))
    work = PlantedWork(root / "log", fault=fails_once)
    play(search, work, folder)
    return folder


def test_a_search_is_told_as_it_was(tmp_path: Path) -> None:
    study = f"s-{uuid.uuid4().hex[:8]}"
    folder = run_planted(tmp_path, study)
    records = read_trials(folder)
    assert Counter(record.state for record in records) == {"complete": 5, "failed": 1}

    found = scrape_until(
        lambda scrape: scrape.total(names.TRIALS_ENDED.exported, study=study) == len(records)
    )
    for method in ("spa", "linear_probe"):
        of = {"study": study, "method": method, "shots": "1"}
        own = [record for record in records if record.method == method]
        ended = Counter(record.state for record in own)
        for state in ("complete", "failed"):
            where = {**of, "state": state}
            assert found.total(names.TRIALS.exported, **where) == ended[state]
            assert found.total(names.TRIALS_ENDED.exported, **where) == ended[state]
        assert found.total(names.TRIALS.exported, **of, state="running") == 0
        best = max(record.value or 0 for record in own)
        assert found.total(names.BEST.exported, **of) == pytest.approx(best)
        epochs = [line for line in lines(PlantedWork(tmp_path / "log")) if method in line[1]]
        told = found.total(names.EPOCHS.exported, study=study, method=method)
        # the epoch that raised was never reported
        asked = sum(line[0] == "epoch" for line in epochs) - ended["failed"]
        assert told == asked
        seconds = f"{names.TRIAL_SECONDS.exported}_count"
        assert found.total(seconds, study=study, method=method) == len(own)
    assert found.total(names.TRIALS_LEFT.exported, study=study) == 0
    assert found.kinds[names.TRIALS.exported] == "gauge"
    assert found.kinds[names.TRIALS_ENDED.exported] == "counter"

    # a driver that takes the study up shows what an earlier one ended, and ended nothing itself
    SearchMetrics(study, {"spa-k1": TRIALS, "linear_probe-k1": TRIALS}, records)
    again = scrape_until(lambda scrape: True)
    assert again.total(names.TRIALS.exported, study=study) == len(records)
    assert again.total(names.TRIALS_ENDED.exported, study=study) == len(records)


def test_fits_phases_and_backlog() -> None:
    study = f"f-{uuid.uuid4().hex[:8]}"
    fits = [FitKey("spa", 4, draw) for draw in range(5)] + [FitKey("zero_shot", 0, 0)]
    metrics = FitMetrics(study, fits)
    metrics.counted(fits[0], {"miou": 0.5})
    metrics.counted(fits[1], {"miou": 0.4})
    metrics.counted(fits[2], {"cause": "diverged"})
    phases = {"prepare": 1.5}
    waiting = [7]
    with StudyMetrics(study, lambda: waiting[0], phases, every=0.05):
        phases["search"] = 20.25
        waiting[0] = 3
        found = scrape_until(lambda scrape: scrape.total(names.BACKLOG.exported, study=study) == 3)
        assert found.total(names.BACKLOG.exported, study=study) == 3
        assert found.total(names.RUNNING.exported, study=study) == 1
        for phase, seconds in phases.items():
            where = {"study": study, "phase": phase}
            assert found.total(names.PHASE_SECONDS.exported, **where) == seconds
    for method, shots, state, number in (
        ("spa", "4", "done", 2),
        ("spa", "4", "failed", 1),
        ("spa", "4", "left", 2),
        ("zero_shot", "0", "left", 1),
        ("zero_shot", "0", "done", 0),
    ):
        where = {"study": study, "method": method, "shots": shots, "state": state}
        (sample,) = found.having(names.FITS.exported, **where)
        assert sample.value == number
    ended = scrape_until(lambda scrape: scrape.total(names.RUNNING.exported, study=study) == 0)
    (sample,) = ended.having(names.RUNNING.exported, study=study)
    assert sample.value == 0


def test_workers_count_too_and_every_metric_is_exported_by_its_name() -> None:
    mark = uuid.uuid4().hex[:8]

    @ray.remote(num_cpus=1)
    def work() -> None:
        count(names.S3_REQUESTS, operation=mark)

    ray.get([work.remote() for _ in range(4)])
    for metric in names.ALL:
        labels = dict.fromkeys(metric.labels, mark)
        tell: Any = {"counter": count, "gauge": show, "histogram": observe}[metric.kind]
        tell(metric, 2.0, **labels)
    found = scrape_until(
        lambda scrape: scrape.total(names.S3_REQUESTS.exported, operation=mark) == 6
    )
    assert found.total(names.S3_REQUESTS.exported, operation=mark) == 6
    for metric in names.ALL:
        series = metric.exported + ("_bucket" if metric.kind == "histogram" else "")
        assert found.kinds[series] == metric.kind
        bounds = {"le"} if metric.kind == "histogram" else set()
        assert {frozenset(s.labels) for s in found.having(series)} == {
            frozenset({*metric.labels, *bounds})
        }
    for metric in names.ALL:
        assert not {"trial", "key", "image", "draw"} & set(metric.labels), metric.name


def test_wrong_labels_are_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="labels"):
        count(names.S3_REQUESTS, kind="x")


WITHOUT_RAY = """
import json, sys
from ssprompt_platform.metrics import names, recorder
recorder.count(names.S3_REQUESTS, operation="GetObject")
recorder.count(names.S3_REQUESTS, 2, operation="GetObject")
recorder.count(names.S3_REQUESTS, 0, operation="GetObject")
recorder.show(names.BACKLOG, 5, study="s")
recorder.show(names.BACKLOG, 4, study="s")
recorder.observe(names.TRIAL_SECONDS, 4, study="s", method="m")
print(json.dumps([[key[0].name, value] for key, value in recorder._held.items()]))
assert "ray" not in sys.modules
import ray
recorder.count(names.S3_REQUESTS, operation="GetObject")
print(json.dumps([[key[0].name, value] for key, value in recorder._held.items()]))
"""


def test_without_ray_values_are_held_and_ray_is_not_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True, check=True
    )
    before, imported = map(json.loads, done.stdout.splitlines())
    assert before == [["s3_requests", 3], ["tracking_backlog", 4]]
    # imported but not connected is the same
    assert imported == [["s3_requests", 4], ["tracking_backlog", 4]]


def test_gauges_are_set_again_while_their_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    study, other = (f"r-{uuid.uuid4().hex[:8]}" for _ in range(2))
    FitMetrics(study, [FitKey("spa", 4, 0)])
    FitMetrics(other, [FitKey("spa", 4, 0)])
    told: Counter[tuple[str, str]] = Counter()
    original = recorder._record

    def record(key: Any, value: float) -> None:
        told[key[0].name, dict(zip(key[0].labels, key[1], strict=True)).get("study", "")] += 1
        original(key, value)

    monkeypatch.setattr(recorder, "_record", record)
    with StudyMetrics(study, lambda: 0, {}, every=1000):
        # three states
        assert told["fits", study] == told["fits", other] == 3
    ended = told["fits", study]
    assert ended == 6
    recorder.refresh()
    assert told["fits", study] == ended
    assert told["fits", other] == 9
    recorder.forget("study", other)


def test_a_backlog_that_cannot_be_read_is_left_out() -> None:
    study = f"b-{uuid.uuid4().hex[:8]}"

    def broken() -> int:
        raise OSError("the disk is gone")

    with StudyMetrics(study, broken, {}, every=0.01) as metrics:
        time.sleep(0.05)
        assert metrics._thread.is_alive()
    assert not metrics._thread.is_alive()
