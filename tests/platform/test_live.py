"""What is shown while a search and final fits run, on terminals and in logs."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssprompt_platform.fit_files import failed_path, record_path
from ssprompt_platform.fits_view import FitsView
from ssprompt_platform.live import SearchView
from ssprompt_platform.live_table import LiveTable, duration
from ssprompt_platform.plan import FitKey
from ssprompt_platform.search.grouped import Suggestion
from ssprompt_platform.search.records import State, TrialRecord
from ssprompt_platform.storage import write_json

SETTING = {"decoding": "per_class", "lr_weight": 0.05, "num_prompts": 16, "lr_embedding": 0.125}
TOTALS = {f"{method}-k{k}": 6 for method in ("linear_probe", "spa", "ssprompt") for k in (1, 4, 16)}


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log() -> Console:
    """Not a terminal."""
    return Console(file=io.StringIO(), width=60)


def written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def drawn(view: LiveTable, width: int, height: int = 40) -> list[str]:
    """The lines of the table as a terminal of that size shows them."""
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(view.table(width, height))
    return console.export_text().splitlines()


def trial(study: str, number: int) -> Suggestion:
    method, _, shots = study.rpartition("-")
    return Suggestion(study, method, int(shots[1:]), number, SETTING)


def run(view: SearchView, one: Suggestion, state: State = "complete", value: float = 0.25) -> None:
    view.started(one)
    view.ended(one, state, None if state == "failed" else value, None)


def record(study: str, number: int, state: State, value: float | None) -> TrialRecord:
    method, _, shots = study.rpartition("-k")
    return TrialRecord(
        study, number, method, int(shots), state, value, SETTING, (), {}, None, None, None, None,
        None, None,
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 120])
def test_the_table_shows_trials_what_runs_and_the_best(width: int, clock: Clock) -> None:
    with SearchView(log(), TOTALS, clock=clock) as view:
        run(view, trial("spa-k4", 0), value=0.3125)
        run(view, trial("spa-k4", 1), value=0.3)
        run(view, trial("spa-k4", 2), "pruned", 0.9)
        run(view, trial("spa-k4", 3), "failed")
        view.ended(trial("spa-k4", 4), "duplicate", 0.3125, None)
        for number in (0, 1, 2):
            view.started(trial("ssprompt-k16", number))
        view.reported(trial("ssprompt-k16", 0), {"epoch": 7, "loss": 1.0})
        view.reported(trial("ssprompt-k16", 0), {"end": "complete", "miou": 0.4, "history": []})
        clock.now += 120
        lines = drawn(view, width)
    assert all(len(line) <= width for line in lines)
    cells = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in lines if line.split()}
    assert [name for name in cells if name in TOTALS] == list(TOTALS)
    head = ["search", "trials", "pruned", "failed", "repeated", "running", "best mIoU",
            "its hyperparameters"]  # fmt: skip
    if width == 60:
        head = ["search", "trials", "running", "best mIoU"]
        assert cells["spa-k4"] == ["spa-k4", "5/6", ".312"]
        assert cells["ssprompt-k16"] == ["ssprompt-k16", "0/6", "t000 epoch 7 +2"]
    else:
        setting = "num_prompts=16 lr_embedding=0.12 lr_weight=0.05"
        assert cells["spa-k4"][:-1] == ["spa-k4", "5/6", "1", "1", "1", ".312 (t000)"]
        assert setting.startswith(cells["spa-k4"][-1].removesuffix("…"))
        assert cells["ssprompt-k16"][2] == "t000 epoch 7 +2"
    assert cells["search"] == head
    text = " ".join(" ".join(lines).split())
    assert "5/54 trials (1 pruned, 1 failed, 1 repeated) 2 min elapsed" in text
    # four trials ran in two minutes; the duplicate took none
    assert "2.0 trials/min about 24 min left" in text


@pytest.mark.parametrize("height", [8, 12, 30])
def test_a_low_terminal_shows_the_groups_that_are_at_work(height: int, clock: Clock) -> None:
    totals = {f"spa-k{k}": 2 for k in range(1, 201)}
    with SearchView(log(), totals, clock=clock) as view:
        for k in range(1, 201):
            run(view, trial(f"spa-k{k}", 0))
        view.started(trial("spa-k7", 1))
        lines = drawn(view, 80, height)
    assert len(lines) <= height
    names = [line.split()[0] for line in lines if line.strip().startswith("spa-k")]
    assert "spa-k7" in names
    assert names == sorted(names, key=list(totals).index)
    assert set(names) - {"spa-k7"} == {f"spa-k{k}" for k in range(202 - len(names), 201)}
    assert f"and {200 - len(names)} more" in " ".join(lines)


def test_where_k_is_searched_a_row_names_it(clock: Clock) -> None:
    one = Suggestion("spa-pareto", "spa", 16, 3, SETTING)
    console = log()
    with SearchView(console, {"spa-pareto": 8}, clock=clock) as view:
        run(view, one)
        assert any(".250 (K=16)" in line for line in drawn(view, 60))
        assert any(".250 (t003, K=16)" in line for line in drawn(view, 120))
    assert "best spa K=16 .250 (t003)" in written(console)[-1]


def test_earlier_parts_of_a_study_count_but_not_for_the_rate(clock: Clock) -> None:
    before = [
        record("spa-k4", 0, "complete", 0.5), record("spa-k4", 1, "pruned", 0.9),
        record("spa-k4", 2, "failed", None), record("spa-k4", 3, "running", None),
        record("other-k4", 0, "complete", 0.99),
    ]  # fmt: skip
    console = log()
    with SearchView(console, {"spa-k4": 6}, before, clock=clock) as view:
        clock.now += 60
        run(view, trial("spa-k4", 3), value=0.4)
    first, last = written(console)[0], written(console)[-1]
    assert first == "search 3/6 (1 pruned, 1 failed)  best spa K=4 .500 (t000)"
    assert last == (
        "search 4/6 (1 pruned, 1 failed)  best spa K=4 .500 (t000)  1.0 trials/min  "
        "about 2 min left"
    )


def test_a_budget_ends_the_search_before_its_last_trial(clock: Clock) -> None:
    console = log()
    with SearchView(console, TOTALS, minutes=30, spent_minutes=10, clock=clock) as view:
        clock.now += 600
        run(view, trial("spa-k4", 0))
    assert written(console)[0] == "search 0/54  about 20 min left  budget 30 min"
    assert "about 10 min left  budget 30 min" in written(console)[-1]


def test_a_log_gets_a_line_every_few_seconds_and_every_failure(clock: Clock) -> None:
    console = log()
    totals = {"spa-k4": 10_000}
    with SearchView(console, totals, clock=clock) as view:
        for number in range(10_000):
            one = trial("spa-k4", number)
            view.started(one)
            for epoch in (1, 2):
                view.reported(one, {"epoch": epoch, "loss": 1.0})
            clock.now += 0.01
            failed = number % 1000 == 0
            cause = "out of memory (RuntimeError: [x] can't allocate memory)" if failed else None
            view.ended(one, "failed" if failed else "complete", number / 10_000, cause)
    lines = written(console)
    failures = [line for line in lines if line.startswith("trial ")]
    assert len(failures) == 10
    assert failures[1] == (
        "trial spa-k4-t1000 failed: out of memory (RuntimeError: [x] can't allocate memory)"
    )
    states = [line for line in lines if line.startswith("search ")]
    assert len(states) + len(failures) == len(lines)
    assert 20 <= len(states) <= 22  # 100 seconds pass
    assert states[-1].startswith("search 10000/10000 (10 failed)  best spa K=4 1.000 (t9999)")
    assert all("trials/min" in line for line in states[1:])


def test_a_terminal_is_drawn_by_a_thread_of_its_own(clock: Clock) -> None:
    """Ten thousand trials must not draw ten thousand tables; failures stay above the table."""
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True)
    drawing: list[str] = []

    class Watched(SearchView):
        def table(self, width: int, height: int) -> Any:
            drawing.append(threading.current_thread().name)
            return super().table(width, height)

    with Watched(console, {"spa-k4": 10_000}, clock=clock) as view:
        for number in range(10_000):
            run(view, trial("spa-k4", number), "failed" if number % 5000 == 0 else "complete")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("failed: no cause was told") == 2
    assert "10000/10000 trials (2 failed)" in text
    # the main thread draws at the beginning, at the end and around lines of their own
    assert drawing.count(threading.main_thread().name) < 20


def test_an_error_leaves_the_terminal_as_it_was(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), SearchView(console, TOTALS, clock=clock):
        raise KeyboardInterrupt
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


# final fits

FITS = [FitKey("spa", k, draw) for k in (1, 4) for draw in (0, 1)] + [FitKey("zero_shot", 1, 0)]


def settle(fits: Path, keys: Sequence[FitKey], view: FitsView, clock: Clock) -> None:
    for number, key in enumerate(keys):
        clock.now += 30
        if number == 1:
            write_json(failed_path(fits, key), {"cause": "the loss was nan at epoch 3"})
        else:
            write_json(record_path(fits, key), {"miou": 0.2 + number / 10})
        view.settled(key, fits)


@pytest.mark.parametrize("width", [60, 120])
def test_final_fits_show_their_means(width: int, clock: Clock, tmp_path: Path) -> None:
    console = log()
    with FitsView(console, FITS, clock) as view:
        view.known(FITS[4], {"miou": 0.1})
        settle(tmp_path, FITS[:3], view, clock)
        lines = drawn(view, width)
    assert all(len(line) <= width for line in lines)
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip()]
    assert ["spa K=1", "1/2", "1", ".200 over 1"] in cells
    assert ["spa K=4", "1/2", ".400 over 1"] in cells
    assert ["zero_shot", "1/1", ".100 over 1"] in cells
    assert cells[-1] == ["4/5 (1 failed)", "2 min elapsed", "about 30 s left"]
    assert written(console) == [
        "final fits 0/5",
        "final fits 2/5  spa K=1 .200 over 1  about 2 min left",
        f"final fit spa-k1-d1 failed: the loss was nan at epoch 3; to run it again, delete "
        f"{tmp_path}/spa-k1-d1.failed.json",
        "final fits 3/5 (1 failed)  spa K=1 .200 over 1  about 60 s left",
        "final fits 4/5 (1 failed)  spa K=4 .400 over 1  about 30 s left",
    ]


def test_final_fits_of_earlier_parts_are_counted_and_failures_told_again(clock: Clock) -> None:
    console = log()
    with FitsView(console, FITS, clock) as view:
        view.known(FITS[0], {"miou": 0.5})
        view.known(FITS[1], {"cause": "ValueError: x"})
    assert written(console)[1:] == [
        "final fit spa-k1-d1 failed before (ValueError: x); to run it again, delete its "
        "spa-k1-d1.failed.json",
        "final fits 2/5 (1 failed)",
    ]


def test_a_low_terminal_shows_groups_with_fits_to_do(clock: Clock) -> None:
    keys = [FitKey("spa", k, 0) for k in range(1, 51)]
    with FitsView(log(), keys, clock) as view:
        for key in keys[:45]:
            view.known(key, {"miou": 0.5})
        lines = drawn(view, 60, 12)
    assert len(lines) <= 12
    assert {f"K={k}" for k in range(46, 51)} < set(" ".join(lines).split())
    assert "and 44 more" in " ".join(lines)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
