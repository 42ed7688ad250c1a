"""The process that tells MLflow dies at any point, or an answer gets lost: nothing is doubled."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracked import (
    KilledError,
    deliver,
    found,
    target,
    tell_story,
    track,
    trial,
    without_ids,
    written,
)

from ssprompt_platform.tracking.delivery import Delivery
from ssprompt_platform.tracking.state import Sent

WRITES = (
    "create_run", "log_batch", "set_terminated", "update_run", "set_tag", "delete_run",
    "log_artifact", "log_text", "create_experiment",
)  # fmt: skip
Fault = Callable[[Callable[[], Any]], Any]


def before(call: Callable[[], Any]) -> Any:
    raise KilledError


def after(call: Callable[[], Any]) -> Any:
    call()
    raise KilledError


def unheard(call: Callable[[], Any]) -> Any:
    raise MlflowException("API request to x failed with exception refused")


def unanswered(call: Callable[[], Any]) -> Any:
    call()
    raise MlflowException("API request to x failed with timeout exception")


class Faults:
    """Puts a fault into the n-th writing call; counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.plan = 0, dict[int, Fault]()
        for name in WRITES:
            monkeypatch.setattr(MlflowClient, name, self._faulty(getattr(MlflowClient, name)))

    def at(self, plan: dict[int, Fault]) -> None:
        self.calls, self.plan = 0, plan

    def _faulty(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            fault = self.plan.get(self.calls)
            if fault is None:
                return original(client, *arguments, **options)
            return fault(lambda: original(client, *arguments, **options))

        return call


def told(folder: Path, uri: str, root: Path, study: str) -> dict[str, dict[str, Any]]:
    """Deliver, by one process after the other where they are killed."""
    while True:
        try:
            deliver(folder, uri, root, study)
            return without_ids(found(uri, study))
        except KilledError:
            continue


def small_story(tracker: Any, root: Path) -> None:
    tell_story(tracker, root, trials=1)


@pytest.mark.parametrize("fault", [before, after, unheard, unanswered])
def test_a_fault_at_any_call_doubles_and_loses_nothing(
    fault: Fault, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def journal(study: str) -> Path:
        return written(tmp_path, study, lambda tracker: small_story(tracker, tmp_path))

    name = fault.__name__
    faults = Faults(monkeypatch)
    wanted = told(journal(f"{name}-0"), sqlite_uri, tmp_path, f"{name}-0")
    calls = faults.calls
    assert calls > 8
    assert wanted["spa-k4-final"]["files"] == ["prompts/prompts.safetensors"]
    for number in range(1, calls + 1):
        study = f"{name}-{number}"
        folder = journal(study)
        faults.at({number: fault})
        known = told(folder, sqlite_uri, tmp_path, study)
        assert faults.calls > number
        assert _named(known, study) == _named(wanted, f"{name}-0"), number


@pytest.mark.parametrize("fault", [before, after, unheard, unanswered])
def test_an_experiment_is_made_once(
    fault: Fault, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = f"experiment-{fault.__name__}"
    monkeypatch.setattr("tracked.EXPERIMENT", study)
    faults = Faults(monkeypatch)
    faults.at({1: fault})
    folder = written(tmp_path, study, lambda tracker: tracker.started(trial(0)))
    assert set(told(folder, sqlite_uri, tmp_path, study)) == {"study", trial(0).key}


@pytest.mark.parametrize("seed", range(4))
def test_many_faults_at_random_and_steps_of_any_size(
    seed: int, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sessions of a study, of which two died; the sender dies again and again."""
    rng = random.Random(seed)
    names = [f"random-{seed}-{part}" for part in ("calm", "wild")]
    folders = [_sessions(tmp_path, name, random.Random(seed)) for name in names]
    wanted = told(folders[0], sqlite_uri, tmp_path, names[0])
    faults = Faults(monkeypatch)
    kinds = [before, after, unheard, unanswered]
    faults.at({rng.randrange(1, 120): rng.choice(kinds) for _ in range(12)})
    monkeypatch.setattr("ssprompt_platform.tracking.delivery._MOST", rng.choice([1, 2, 5, 40]))
    known = told(folders[1], sqlite_uri, tmp_path, names[1])
    assert _named(known, names[1]) == _named(wanted, names[0])


@pytest.mark.parametrize("backend", ["sqlite", "postgres", "server"])
def test_a_whole_journal_that_is_told_again_changes_nothing(
    backend: str, request: pytest.FixtureRequest, sqlite_uri: str, tmp_path: Path
) -> None:
    """The memory of what was told is lost: every run is found, every metric is there already."""
    uri = {
        "sqlite": lambda: sqlite_uri,
        "postgres": lambda: request.getfixturevalue("postgres_database"),
        "server": lambda: request.getfixturevalue("mlflow_server").uri,
    }[backend]()
    study = f"replayed-{backend}"
    folder = written(tmp_path, study, lambda tracker: tell_story(tracker, tmp_path))
    once = told(folder, uri, tmp_path, study)
    ids = {key: run["id"] for key, run in found(uri, study).items()}
    for memory in folder.glob("sent-*"):
        memory.unlink()
    assert told(folder, uri, tmp_path, study) == once
    assert {key: run["id"] for key, run in found(uri, study).items()} == ids


def test_mlflow_itself_ignores_a_metric_that_it_has(
    sqlite_uri: str, postgres_database: str, tmp_path: Path
) -> None:
    """What the delivery relies on where an answer got lost, NaN and infinity included."""
    from mlflow.entities import Metric

    values = [1.5, float("nan"), 1e300, 0.1 + 0.2]
    for uri in (sqlite_uri, postgres_database):
        client = MlflowClient(uri, uri)
        run = client.create_run(client.create_experiment(f"twice-{tmp_path.name}"))
        metrics = [Metric("m", value, 1000 + step, step) for step, value in enumerate(values)]
        for _ in range(2):
            client.log_batch(run.info.run_id, metrics=metrics)
        assert len(client.get_metric_history(run.info.run_id, "m")) == len(values)


def test_a_damaged_memory_is_begun_anew(sqlite_uri: str, tmp_path: Path) -> None:
    folder = written(tmp_path, "damaged", lambda tracker: small_story(tracker, tmp_path))
    once = told(folder, sqlite_uri, tmp_path, "damaged")
    memory = folder / f"sent-{target(sqlite_uri, tmp_path).mark}.db"
    for path in folder.glob("sent-*"):
        path.unlink()
    memory.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    assert told(folder, sqlite_uri, tmp_path, "damaged") == once


def test_a_memory_that_a_power_cut_set_back(sqlite_uri: str, tmp_path: Path) -> None:
    """The last commits are gone: runs were made that it does not know."""
    folder = written(tmp_path, "back", lambda tracker: tell_story(tracker, tmp_path))
    once = told(folder, sqlite_uri, tmp_path, "back")
    place = target(sqlite_uri, tmp_path)
    for share in (0.2, 0.6):
        sent = Sent(folder / f"sent-{place.mark}.db")
        lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        back = sum(map(len, lines[: int(len(lines) * share)]))
        sent.advance("values", back, 0)
        sent._base.execute("DELETE FROM runs WHERE key != 'study'")
        sent.close()
        assert told(folder, sqlite_uri, tmp_path, "back") == once


def test_only_one_process_delivers_a_journal(sqlite_uri: str, tmp_path: Path) -> None:
    folder = written(tmp_path, "both", lambda tracker: small_story(tracker, tmp_path))
    first = Delivery(folder, target(sqlite_uri, tmp_path), "both")
    assert first.work()
    second = Delivery(folder, target(sqlite_uri, tmp_path), "both")
    assert not second.work()
    assert "another process" in second.fault
    first.close()
    second.close()
    deliver(folder, sqlite_uri, tmp_path, "both")


def _sessions(root: Path, study: str, rng: random.Random) -> Path:
    """Sessions of drivers that die in the middle, and one that ends."""
    done: set[int] = set()
    for last in (False, False, True):
        tracker = track("http://127.0.0.1:9", root, study)
        for number in range(4):
            if number in done:
                continue
            one = trial(number)
            tracker.started(one)
            epochs = [{"epoch": e, "loss": 1.0 / e + number} for e in (1, 2, 3)]
            for entry in epochs[: rng.randrange(4)]:
                tracker.reported(one, entry)
            if last or rng.random() < 0.5:
                tracker.reported(one, {"history": epochs})
                tracker.ended(one, "complete", 0.5, None)
                # Optuna may not have been told, and the trial goes on in the next session
                if rng.random() < 0.7:
                    done.add(number)
        if last:
            tracker.finish([], {})
        tracker.close(0)
        folder = tracker.work
    return folder


def _named(known: dict[str, dict[str, Any]], study: str) -> str:
    """As a text in which the study's own name is not to be seen."""
    return repr(sorted(known.items())).replace(study, "STUDY")
