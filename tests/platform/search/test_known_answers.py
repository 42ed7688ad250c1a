"""The engine on planted objectives: what is found, counted, told, and never run twice."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from synthetic import (
    Events,
    PlantedWork,
    lines,
    planted,
    planted_plan,
    planted_rate,
    play,
    searcher,
)

from ssprompt_platform.config.schema import Config, Dimension
from ssprompt_platform.plan import Group
from ssprompt_platform.report.front import front_rows
from ssprompt_platform.search.database import Record
from ssprompt_platform.search.records import TrialRecord, read_studies, read_trials
from ssprompt_platform.storage import StudyFolder, read_json


def config(**search: Any) -> Config:
    made = Config()
    made.train.epochs = 3
    made.search.trials = 6
    for name, value in search.items():
        setattr(made.search, name, value)
    return made


def run(
    root: Path,
    made: Config,
    methods: tuple[str, ...] = ("spa",),
    shots: tuple[int, ...] = (1, 4),
    work: PlantedWork | None = None,
    **how: Any,
) -> tuple[StudyFolder, PlantedWork, Events, dict[Group, dict[str, Any]]]:
    root.mkdir(parents=True, exist_ok=True)
    folder, events = StudyFolder(root, "s"), Events()
    work = work or PlantedWork(root / "log")
    made.study.methods, made.study.shots = list(methods), list(shots)
    search = searcher(folder, made, planted_plan(methods, shots, work.draws), events)
    play(search, work, folder, **how)
    return folder, work, events, search.best()


def history(folder: StudyFolder) -> list[tuple[Any, ...]]:
    return [(t.key, t.state, t.params, t.value, t.scores, t.rungs) for t in read_trials(folder)]


def test_the_planted_optimum_of_each_k_is_found(tmp_path: Path) -> None:
    made = config(trials=25)
    made.search.space.lr_weight = Dimension(choices=[0.3])
    _, _, _, best = run(tmp_path, made, shots=(1, 16))
    for shots in (1, 16):
        setting = best[Group("spa", shots)]
        assert setting["num_prompts"] == 9
        assert abs(math.log(setting["lr_embedding"] / planted_rate(shots))) < math.log(1.5)


def test_trials_and_scored_images_are_as_many_as_the_study_says(tmp_path: Path) -> None:
    work = PlantedWork(tmp_path / "log", number_of_draws=2, folds_of_draw=3, images=5)
    folder, work, events, _ = run(tmp_path, config(trials=4), shots=(1, 2, 4), work=work)
    said = Counter(line[0] for line in lines(work))
    trials, fits = 3 * 4, 3 * 4 * 2 * 3
    assert said == {"epoch": fits * 3, "scored": fits}
    assert sum(int(line[4]) for line in lines(work) if line[0] == "scored") == fits * 5
    assert Counter(events.ended_states.values()) == {"complete": trials}
    assert events.ends == trials == len(read_trials(folder)) == len(events.started_keys)


def test_proposals_do_not_depend_on_timing(tmp_path: Path) -> None:
    made = config(trials=7, together=3, warm_start=True)
    first, *_ = run(tmp_path / "a", made, slots=4)
    second, *_ = run(tmp_path / "b", made, slots=2, newest_first=True)
    assert history(first) == history(second)
    made.study.seed = 4
    other, *_ = run(tmp_path / "c", made, slots=4)
    assert history(other) != history(first)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "sobol", "grid"])
@pytest.mark.parametrize("mode", ["per_shot", "pareto"])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, sampler: str, mode: str
) -> None:
    made = config(trials=6, sampler=sampler)
    made.study.mode = mode
    made.search.startup_trials = 2
    whole, *_ = run(tmp_path / "whole", made)
    for ended in range(1, 5):
        run(tmp_path / "stopped", made, stop_after=ended)
    stopped, _, _, best = run(tmp_path / "stopped", made)
    assert history(stopped) == history(whole)
    assert best == run(tmp_path / "whole", made)[3]


def test_gp_proposes_inside_the_space_and_again_the_same(tmp_path: Path) -> None:
    made = config(trials=4, sampler="gp", startup_trials=2)
    first, *_ = run(tmp_path / "a", made, shots=(1,))
    second, *_ = run(tmp_path / "b", made, shots=(1,))
    assert history(first) == history(second)


def test_equal_settings_are_not_run_twice_and_their_score_is_told(tmp_path: Path) -> None:
    made = config(trials=9, sampler="random")
    for name in made.search.space.__dataclass_fields__:
        setattr(made.search.space, name, None)
    made.search.space.lr_embedding = Dimension(choices=[0.1, 0.3])
    made.search.space.num_prompts = Dimension(choices=[4, 9])
    # a range keeps the space infinite, and its one value keeps the settings few
    made.search.space.lr_weight = Dimension(choices=[0.3, 0.31, 0.32])
    folder, work, events, _ = run(tmp_path, made, shots=(1,))
    records = read_trials(folder)
    run_settings = [str(t.params) for t in records if t.state == "complete"]
    repeats = [t for t in records if t.state == "duplicate"]
    assert len(set(run_settings)) == len(run_settings)
    assert repeats, "nine draws of twelve settings repeat one, with this seed"
    for trial in repeats:
        assert trial.duplicate_of is not None
        first = records[trial.duplicate_of]
        assert (trial.params, trial.value, trial.scores) == (
            first.params,
            first.value,
            first.scores,
        )
    fitted = {line[1] for line in lines(work)}
    assert fitted == {t.key for t in records if t.state == "complete"} == set(events.started_keys)


def test_a_space_that_is_all_tried_ends_the_search(tmp_path: Path) -> None:
    made = config(trials=40, sampler="grid")
    for name in made.search.space.__dataclass_fields__:
        setattr(made.search.space, name, None)
    made.search.space.num_prompts = Dimension(choices=[4, 9, 16])
    made.search.space.lr_embedding = Dimension(low=0.01, high=1.0, log=True, points=3)
    folder, _, _, best = run(tmp_path, made, shots=(1,))
    records = read_trials(folder)
    tried = {(t.params["num_prompts"], round(t.params["lr_embedding"], 6)) for t in records}
    assert tried == set(itertools.product((4, 9, 16), (0.01, 0.1, 1.0)))
    assert len(records) == 9
    assert best[Group("spa", 1)] == {"num_prompts": 9, "lr_embedding": pytest.approx(0.1)}
    assert "all 9 settings" in read_json(folder.spent)["ended_by"]["spa-k1"]


def test_the_default_is_first_then_what_the_user_knows(tmp_path: Path) -> None:
    known = {"lr_embedding": 0.123, "num_prompts": 16}
    made = config(trials=4, enqueue=[{**known, "method": "spa"}, {"lr_probe": 0.05, "shots": 4}])
    folder, *_ = run(tmp_path, made, methods=("spa", "linear_probe"))
    of = {trial.key: trial for trial in read_trials(folder)}
    assert of["spa-k1-t000"].params["lr_embedding"] == 0.3
    for k in (1, 4):
        trial = of[f"spa-k{k}-t001"]
        assert {name: trial.params[name] for name in known} == known
    assert of["linear_probe-k4-t001"].params["lr_probe"] == 0.05
    assert of["linear_probe-k1-t001"].params["lr_probe"] != 0.05


def test_the_best_of_a_k_is_tried_at_the_next(tmp_path: Path) -> None:
    folder, _, events, _ = run(tmp_path, config(trials=5, warm_start=True), shots=(1, 4, 16))
    records = read_trials(folder)
    for smaller, larger in ((1, 4), (4, 16)):
        values = {t.number: t.value for t in records if t.shots == smaller}
        best = max(values, key=lambda n: (values[n] or 0, -n))
        setting = next(t.params for t in records if (t.shots, t.number) == (smaller, best))
        tried = [t.params for t in records if t.shots == larger][:2]
        assert setting in tried
        order = events.started_keys
        assert order.index(f"spa-k{larger}-t000") > order.index(f"spa-k{smaller}-t004")


def test_the_front_of_a_pareto_search_is_the_planted_one(tmp_path: Path) -> None:
    """MIoU rises up to K = 4 and falls after it: no label beyond is worth its price."""

    def objective(setting: Any, shots: int, draw: int) -> float:
        return planted(setting, min(shots, 4)) - 0.1 * (shots > 4)

    made = config(trials=40, together=4)
    made.study.mode = "pareto"
    work = PlantedWork(tmp_path / "log", objective=objective)
    shots = (1, 2, 4, 8, 16)
    folder, work, _, best = run(tmp_path, made, shots=shots, work=work)
    rows = front_rows(read_trials(folder), {}, pareto=True)
    front = {row["shots"] for row in rows if row["on_front"]}
    assert front == {1, 2, 4}
    assert set(best) == {Group("spa", k) for k in shots}
    study = read_studies(folder)["spa-pareto"]
    planted_front = {
        (t.values[0], t.values[1])
        for t in study.trials
        if not any(
            o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values
            for o in study.trials
        )
    }
    assert planted_front == {(t.values[0], t.values[1]) for t in study.best_trials}
    assert {row["value"] for row in rows if row["on_front"]} == {v for v, _ in planted_front}


def test_an_extended_search_runs_the_difference_only(tmp_path: Path) -> None:
    made = config(trials=3)
    folder, work, *_ = run(tmp_path, made)
    before, said = history(folder), len(lines(work))
    run(tmp_path, made)
    assert history(folder) == before
    assert len(lines(work)) == said
    run(tmp_path, config(trials=5), shots=(1, 4, 16))
    after = read_trials(folder)
    assert Counter(t.shots for t in after) == {1: 5, 4: 5, 16: 5}
    assert [row for row in history(folder) if row[0] in {r[0] for r in before}] == before
    fresh = {line[1] for line in lines(work)[said:]}
    assert fresh == {t.key for t in after} - {row[0] for row in before}
    whole, *_ = run(tmp_path / "whole", config(trials=5), shots=(1, 4, 16))
    assert history(whole) == history(folder)


def test_studies_with_one_storage_name_each_are_opened_by_optunas_dashboard(tmp_path: Path) -> None:
    folder, *_ = run(tmp_path, config(trials=2), methods=("spa", "linear_probe"))
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.optuna}")
    names = optuna.get_all_study_names(storage)
    assert sorted(names) == sorted(f"s/{m}-k{k}" for m in ("spa", "linear_probe") for k in (1, 4))
    dashboard = pytest.importorskip("optuna_dashboard")
    application = dashboard.wsgi(storage)
    answers: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/api/studies",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
    }
    body = b"".join(application(environment, lambda status, headers, *rest: answers.append(status)))
    assert answers == ["200 OK"]
    for name in names:
        assert name.encode() in body


def test_what_the_trial_records_hold(tmp_path: Path) -> None:
    work = PlantedWork(tmp_path / "log", number_of_draws=2)
    folder, *_ = run(tmp_path, config(trials=2), shots=(4,), work=work)
    trial: TrialRecord = read_trials(folder)[1]
    assert trial.key == "spa-k4-t001"
    assert (trial.method, trial.shots, trial.labelled) == ("spa", 4, 12.0)
    assert trial.scores == pytest.approx([planted(trial.params, 4, d) for d in (0, 1)])
    assert trial.value == pytest.approx(sum(trial.scores) / 2)
    assert trial.seconds is not None
    assert trial.seconds > 0
    assert trial.begun is not None
    assert trial.ended is not None
    assert trial.begun <= trial.ended


def test_a_batch_that_a_kill_cut_off_is_completed_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(trials=6, together=3)
    whole, *_ = run(tmp_path / "whole", made, shots=(4,))

    class KilledError(BaseException):
        pass

    written = Record.add
    count = 0

    def dies(self: Record, trial: optuna.trial.FrozenTrial) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KilledError
        written(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", dies)
        with pytest.raises(KilledError):
            run(tmp_path / "killed", made, shots=(4,))
    killed, *_ = run(tmp_path / "killed", made, shots=(4,))
    assert history(killed) == history(whole)


def test_known_settings_of_another_number_type_and_off_the_grid(tmp_path: Path) -> None:
    made = config(trials=10, sampler="grid", together=3)
    for name in made.search.space.__dataclass_fields__:
        setattr(made.search.space, name, None)
    made.search.space.num_prompts = Dimension(choices=[4, 9])
    made.search.space.dice_weight = Dimension(low=0.0, high=3.0, points=2)
    made.search.enqueue = [{"dice_weight": 2, "num_prompts": 4.0}]
    folder, *_ = run(tmp_path, made, shots=(1,))
    tried = [(t.params["num_prompts"], t.params["dice_weight"]) for t in read_trials(folder)]
    assert tried[0] == (4, 2.0)
    assert sorted(tried[1:]) == [(4, 0.0), (4, 3.0), (9, 0.0), (9, 3.0)]
