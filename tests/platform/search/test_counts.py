"""What a study of many trials may cost, in counts: transactions, processes, what is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from synthetic import Events, PlantedWork, planted_plan, play, searcher

from ssprompt_platform.config.schema import Config
from ssprompt_platform.report.importance import MOST_TRIALS
from ssprompt_platform.report.thinned import SHOWN, evenly, thinned
from ssprompt_platform.search import memory
from ssprompt_platform.search.database import _is_shared
from ssprompt_platform.search.memory import Memory
from ssprompt_platform.search.records import TrialRecord, read_trials
from ssprompt_platform.storage import StudyFolder


def config(trials: int, **search: Any) -> Config:
    made = Config()
    made.train.epochs, made.search.trials = 2, trials
    made.study.methods, made.study.shots = ["spa"], [1]
    for name, value in search.items():
        setattr(made.search, name, value)
    return made


def run(root: Path, made: Config, stop_after: int = 10**9) -> StudyFolder:
    root.mkdir(exist_ok=True)
    folder = StudyFolder(root, "s")
    search = searcher(folder, made, planted_plan(("spa",), (1,)), Events())
    play(search, PlantedWork(root / "log"), folder, stop_after=stop_after)
    search.close()
    return folder


def test_a_trial_is_two_transactions(tmp_path: Path) -> None:
    made, commits = config(8), 0
    made.search.pruning.over = "epochs"
    folder = StudyFolder(tmp_path, "s")
    search = searcher(folder, made, planted_plan(("spa",), (1,)), Events())

    def counted(*_: object) -> None:
        nonlocal commits
        commits += 1

    sqlalchemy.event.listen(search._storage.engine, "commit", counted)
    play(search, PlantedWork(tmp_path / "log"), folder)
    search.close()
    assert len(read_trials(folder)) == 8
    assert commits == 2 * 8


def test_the_database_of_a_search_that_ended_is_one_file(tmp_path: Path) -> None:
    folder = run(tmp_path, config(3))
    # as a study that goes on does: it reads what there is, then searches, then reads again
    known = read_trials(folder)
    run(tmp_path, config(4))
    assert len(read_trials(folder)) == len(known) + 1
    assert [p.name for p in folder.path.glob("optuna.db*")] == ["optuna.db"]
    # sqlite's versions of the format: 1 keeps no log beside the file, 2 does
    assert folder.optuna.read_bytes()[18:20] == b"\1\1"


def test_what_proposals_look_at_is_bounded_and_the_same_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 8)
    seen: list[int] = []
    ask = Memory.ask

    def counted(self: Memory, number: int, sampler: Any) -> optuna.Trial:
        seen.append(len(self._of().get_trials(deepcopy=False)))
        return ask(self, number, sampler)

    monkeypatch.setattr(Memory, "ask", counted)
    for sampler in ("tpe", "nsga2"):
        made = config(30, sampler=sampler, startup_trials=2)
        whole = run(tmp_path / sampler, made)
        for _ in range(2):
            run(tmp_path / f"{sampler}-stopped", made, stop_after=11)
        stopped = run(tmp_path / f"{sampler}-stopped", made)
        assert [t.params for t in read_trials(whole)] == [t.params for t in read_trials(stopped)]
    assert max(seen) <= 8 + 2


def test_the_best_stay_in_memory() -> None:
    trials = []
    for number in range(40):
        trial = create_trial(state=TrialState.COMPLETE, values=[1.0 if number in (3, 7) else 0.1])
        trial.number = number
        trials.append(trial)
    remembered = Memory([StudyDirection.MAXIMIZE], 8)
    remembered.begin(trials, 40)
    values = [t.values[0] for t in remembered._of().get_trials(deepcopy=False)]
    assert values.count(1.0) == 2
    assert len(values) <= 8


def test_a_local_disk_is_no_shared_file_system(tmp_path: Path) -> None:
    assert not _is_shared(tmp_path / "optuna.db")


def test_a_report_shows_a_bounded_number_of_trials_and_the_line_of_the_best_is_true() -> None:
    trials = [
        TrialRecord(
            "spa-k4", n, "spa", 4, "complete", (n * 7919 % 5000) / 5000, {}, (), {}, 1.0,
            None, None, 3.0, None, None,
        )
        for n in range(5000)
    ]  # fmt: skip
    shown = thinned(trials)
    best, records = -1.0, []
    for trial in trials:
        if (trial.value or 0.0) > best:
            best = trial.value or 0.0
            records.append(trial)
    assert len(shown) <= SHOWN + len(records)
    assert {t.number for t in records} <= {t.number for t in shown}
    assert [t.number for t in shown] == sorted(t.number for t in shown)
    assert thinned(trials[:SHOWN]) == trials[:SHOWN]
    assert evenly(range(5000), MOST_TRIALS)[-1] == 4999
