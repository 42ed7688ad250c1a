"""Trials that others have beaten end early, by rules that timing and kills do not change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from synthetic import PlantedWork, lines
from test_known_answers import config, history, run

from ssprompt_platform.config.schema import PruningConfig
from ssprompt_platform.search.pruning import Rules, rules, rungs
from ssprompt_platform.search.records import read_studies, read_trials


def ended(
    values: Mapping[int, float], scores: list[float] | None = None
) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE,
        value=0.5 if scores is None else sum(scores) / len(scores),
        intermediate_values=dict(values),
        user_attrs={} if scores is None else {"scores": scores},
    )


def test_rungs_are_each_a_factor_apart_and_end_before_the_fit_does() -> None:
    halving = PruningConfig(over="epochs", first_epoch=2, factor=3)
    assert rungs(halving, 2) == []
    assert rungs(halving, 3) == [2]
    assert rungs(halving, 54) == [2, 6, 18]


@pytest.mark.parametrize(
    ("values", "least"),
    [
        ([], None),
        ([0.3], 0.3),
        ([0.3, 0.5], 0.5),
        # of six one in three goes on: with this one the second of the five before is the bar
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.4),
    ],
)
def test_one_in_so_many_goes_on(values: list[float], least: float | None) -> None:
    halving = PruningConfig(over="epochs", first_epoch=1, factor=3)
    made = rules(halving, 3, [ended({1: value}) for value in values])
    assert dict(made.rungs) == {1: least}
    assert Rules.from_dict(made.to_dict()) == made
    if least is not None:
        assert made.beaten_at(1, least - 0.01)
        assert not made.beaten_at(1, least)
        assert made.beaten_at(1, float("nan"))


def test_a_race_is_against_the_best_trial_on_the_same_draws() -> None:
    race = PruningConfig(over="draws", p=0.1)
    before = [ended({}, [0.5, 0.6, 0.4, 0.5]), ended({}, [0.3, 0.3, 0.3, 0.3])]
    made = rules(race, 3, before)
    assert made.rival == (0.5, 0.6, 0.4, 0.5)
    assert not made.beaten_over([0.1])
    assert made.beaten_over([0.4, 0.5])
    assert made.beaten_over([0.40, 0.51, 0.29])
    assert not made.beaten_over([0.4, 0.7, 0.3])
    assert not made.beaten_over([0.6, 0.7])
    # the last draw decides nothing: the trial is complete
    assert not made.beaten_over([0.1, 0.1, 0.1, 0.1])


def test_halving_over_epochs_is_told_pruned_and_saves_epochs(tmp_path: Path) -> None:
    made = config(trials=12, sampler="random")
    made.train.epochs = 9
    made.search.pruning = PruningConfig(over="epochs", first_epoch=1, factor=3)
    folder, work, _, best = run(tmp_path, made, shots=(4,))
    records = read_trials(folder)
    pruned = [trial for trial in records if trial.state == "pruned"]
    assert len(pruned) >= 4
    study = read_studies(folder)["spa-k4"]
    for trial in pruned:
        assert study.trials[trial.number].state is TrialState.PRUNED
        last = max(trial.rungs)
        assert last in (1, 3)
        assert trial.value == trial.rungs[last]
        epochs = [line for line in lines(work) if line[:2] == ["epoch", trial.key]]
        assert len(epochs) == last
    complete = [trial for trial in records if trial.state == "complete"]
    assert all(set(trial.rungs) == {1, 3} for trial in complete)
    # asynchronous halving promotes by what is known: replay the decisions from the history
    for trial in records:
        for rung, value in trial.rungs.items():
            seen = sorted(
                (t.rungs[rung] for t in records[: trial.number] if rung in t.rungs), reverse=True
            )
            places = max(1, (len(seen) + 1) // 3)
            goes_on = len(seen) < places or value >= seen[places - 1]
            assert goes_on == (trial.state == "complete" or rung < max(trial.rungs))
    chosen = next(iter(best.values()))
    top = max(complete, key=lambda t: t.value or 0.0)
    assert chosen == top.params


def test_racing_over_draws_drops_a_beaten_setting_on_the_first_draws(tmp_path: Path) -> None:
    made = config(trials=10, sampler="random")
    made.search.pruning = PruningConfig(over="draws", p=0.1)
    made.search.draws = 5
    work = PlantedWork(tmp_path / "log", number_of_draws=5)
    folder, work, *_ = run(tmp_path, made, shots=(4,), work=work)
    records = read_trials(folder)
    pruned = [trial for trial in records if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert 2 <= len(trial.scores) < 5
        assert trial.value == pytest.approx(sum(trial.scores) / len(trial.scores))
        rival = max(
            (t for t in records[: trial.number] if t.state == "complete"),
            key=lambda t: t.value or 0.0,
        )
        assert sum(trial.scores) < sum(rival.scores[: len(trial.scores)])
        scored = [line for line in lines(work) if line[:2] == ["scored", trial.key]]
        assert len(scored) == len(trial.scores)
    assert all(len(t.scores) == 5 for t in records if t.state == "complete")


@pytest.mark.parametrize("over", ["epochs", "draws"])
def test_rungs_survive_a_resume(tmp_path: Path, over: str) -> None:
    made = config(trials=8, sampler="random", together=2)
    made.train.epochs = 9
    made.search.pruning = PruningConfig(over=over, first_epoch=1, p=0.2)

    def go(name: str, **how: Any) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        work = PlantedWork(tmp_path / name / "log", number_of_draws=3)
        return run(tmp_path / name, made, shots=(1, 4), work=work, **how)[0]

    whole = go("whole")
    assert any(trial.state == "pruned" for trial in read_trials(whole))
    for ended_trials in (1, 3, 2, 5):
        go("parts", stop_after=ended_trials)
    assert history(go("parts")) == history(whole)


def test_a_failed_trial_is_no_rival() -> None:
    halving = PruningConfig(over="epochs", first_epoch=1, factor=3)
    failed = create_trial(state=TrialState.FAIL, intermediate_values={1: 0.9})
    assert dict(rules(halving, 3, [failed]).rungs) == {1: None}
    assert dict(rules(halving, 3, [failed, ended({1: 0.4})]).rungs) == {1: 0.4}
