from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ssprompt_core.methods import METHODS, MethodSettings
from ssprompt_platform.config.schema import SearchConfig
from ssprompt_platform.plan import Group
from ssprompt_platform.search.grouped import GroupedSearch, Suggestion

GROUPS = (Group("spa", 1), Group("spa", 4), Group("linear_probe", 4))


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def started(self, trial: Suggestion) -> None:
        self.lines.append(("started", trial.key))

    def reported(self, trial: Suggestion, metrics: Mapping[str, Any]) -> None:
        self.lines.append(("reported", trial.key))

    def ended(self, trial: Suggestion, value: float | None) -> None:
        self.lines.append(("ended", trial.key))


def make(folder: Path, trials: int = 5, seed: int = 3, log: Log | None = None) -> GroupedSearch:
    folder.mkdir(exist_ok=True)
    return GroupedSearch(
        GROUPS, SearchConfig(trials=trials), folder / "optuna.db", "s", seed, log or Log()
    )


def objective(config: Mapping[str, Any]) -> float:
    """Peaks where every learning rate is 0.2."""
    values = [v for k, v in config["hyperparameters"].items() if k.startswith("lr_")]
    return 1.0 - sum(math.log(v / 0.2) ** 2 for v in values) / 10


def play(searcher: GroupedSearch, newest_first: bool, stop_after: int = 10**6) -> None:
    """Run trials as Tune would, finishing them in one order or the other."""
    running: list[tuple[str, dict[str, Any]]] = []
    count = ended = 0
    while ended < stop_after:
        config = searcher.suggest(f"t{count}")
        if isinstance(config, dict):
            running.append((f"t{count}", config))
            count += 1
            continue
        if not running:
            return
        trial_id, config = running.pop(-1 if newest_first else 0)
        searcher.on_trial_complete(trial_id, {"miou": objective(config)})
        ended += 1


def history(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    return {
        group.name: [
            (t.number, t.state, tuple(sorted(t.params.items())), t.value)
            for t in optuna.load_study(study_name=f"s/{group.name}", storage=storage).trials
        ]
        for group in GROUPS
    }


def test_proposals_do_not_depend_on_timing(tmp_path: Path) -> None:
    play(make(tmp_path / "a"), newest_first=False)
    play(make(tmp_path / "b"), newest_first=True)
    first, second = history(tmp_path / "a"), history(tmp_path / "b")
    assert first == second
    assert {len(trials) for trials in first.values()} == {5}
    play(make(tmp_path / "c", seed=4), newest_first=False)
    assert history(tmp_path / "c") != first


def test_a_killed_search_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    play(make(tmp_path / "whole"), newest_first=False)
    play(make(tmp_path / "killed"), newest_first=False, stop_after=7)
    again = make(tmp_path / "killed")
    assert again.remaining() == 3 * 5 - 7
    play(again, newest_first=False)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert make(tmp_path / "killed").suggest("x") == GroupedSearch.FINISHED


def test_a_group_has_one_trial_under_way_and_the_default_is_first(tmp_path: Path) -> None:
    log = Log()
    searcher = make(tmp_path, log=log)
    configs = [searcher.suggest(f"t{i}") for i in range(4)]
    assert configs[3] is None
    assert log.lines == [("started", f"{group.name}-t000") for group in GROUPS]
    defaults = MethodSettings()
    for config in configs[:3]:
        assert isinstance(config, dict)
        names = set(config["hyperparameters"])
        assert names <= set(METHODS[config["method"]].hyperparameters)
    assert isinstance(configs[0], dict)
    assert configs[0]["hyperparameters"]["lr_embedding"] == defaults.lr_embedding
    searcher.on_trial_result("t1", {"epoch": 1, "loss": 0.5})
    assert log.lines[-1] == ("reported", "spa-k4-t000")


@pytest.mark.parametrize("result", [{"miou": math.nan}, {"epoch": 1}, None])
def test_a_trial_without_a_finite_score_is_told_as_failed(
    tmp_path: Path, result: dict[str, Any] | None
) -> None:
    searcher = make(tmp_path, trials=1)
    for number in range(3):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", result, error=result is None)
    states = {trial[1] for trials in history(tmp_path).values() for trial in trials}
    assert states == {TrialState.FAIL}
    with pytest.raises(RuntimeError, match="every trial of spa-k1 failed"):
        searcher.best()


def test_best_takes_the_earliest_of_equals(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=2)
    for number in range(6):
        searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", {"miou": 0.5})
    assert {trial.number for trial in searcher.best().values()} == {0}
