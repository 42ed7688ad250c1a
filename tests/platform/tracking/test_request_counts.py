"""How many requests MLflow gets for what a study tells: batches, however many results there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tracked import deliver, found, history, trial, written

from ssprompt_platform.tracking import Tracker

_REQUESTS = ("create_run", "log_batch", "set_terminated", "log_metric", "log_param", "set_tag")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Requests that MLflow gets from here on, by kind."""
    counts: Counter[str] = Counter()
    for name in _REQUESTS:
        real = getattr(MlflowClient, name)

        def counted(
            self: MlflowClient, *given: Any, _real: Any = real, _name: str = name, **more: Any
        ) -> Any:
            counts[_name] += 1
            return _real(self, *given, **more)

        monkeypatch.setattr(MlflowClient, name, counted)
    return counts


def test_a_trial_is_three_requests(sqlite_uri: str, tmp_path: Path, requests: Counter[str]) -> None:
    trials, epochs = 12, 20

    def tell(tracker: Tracker) -> None:
        for number in range(trials):
            one = trial(number)
            tracker.started(one)
            for epoch in range(1, epochs + 1):
                tracker.reported(one, {"epoch": epoch, "loss": 1.0 / epoch})
            tracker.ended(one, "complete", 0.5, None)

    folder = written(tmp_path, "counted", tell)
    deliver(folder, sqlite_uri, tmp_path, "counted")
    study = 1
    assert requests["create_run"] == trials + study
    assert requests["log_batch"] <= trials + study
    assert requests["set_terminated"] == trials
    assert not requests.keys() & {"log_metric", "log_param", "set_tag"}
    runs = found(sqlite_uri, "counted")
    assert len(runs) == trials + study
    for number in range(trials):
        told = history(runs[f"spa-k4-t{number:03d}"], "train.loss")
        assert told == [(epoch, 1.0 / epoch) for epoch in range(1, epochs + 1)]


def test_results_of_many_workers_that_wait_go_run_by_run(
    sqlite_uri: str, tmp_path: Path, requests: Counter[str]
) -> None:
    workers, epochs = 20, 100

    def tell(tracker: Tracker) -> None:
        own = [trial(number) for number in range(workers)]
        for one in own:
            tracker.started(one)
        for epoch in range(1, epochs + 1):
            for one in own:
                tracker.reported(one, {"epoch": epoch, "loss": 1.0 / epoch})

    folder = written(tmp_path, "waiting", tell)
    deliver(folder, sqlite_uri, tmp_path, "waiting")
    # 2,000 results in as many requests as there are runs, not as there are results
    assert requests["log_batch"] <= 2 * (workers + 1)
    runs = found(sqlite_uri, "waiting")
    losses = [history(runs[f"spa-k4-t{number:03d}"], "train.loss") for number in range(workers)]
    assert [len(told) for told in losses] == [epochs] * workers


def test_files_of_trials_are_read_once(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssprompt_platform.tracking import delivery

    lines = 0
    real = delivery.read

    def counted(*given: Any) -> Any:
        nonlocal lines
        found = real(*given)
        lines += len(found)
        return found

    def tell(tracker: Tracker) -> None:
        for number in range(20):
            tracker.text("study", f"text-{number}.txt", "a")

    folder = written(tmp_path, "texts", tell)
    monkeypatch.setattr(delivery, "read", counted)
    told = deliver(folder, sqlite_uri, tmp_path, "texts")
    assert told.done
    assert len(found(sqlite_uri, "texts")["study"]["files"]) == 20
    # once by either lane, and a line to see whether it is the end; not all of them for each file
    assert lines < 6 * 20
