"""What is printed of a study: the comparisons that matter, failures by cause, targets that tell."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ssprompt_platform.report.printed import (
    failure_sentences,
    leading_statements,
    print_curves,
    print_scores,
)
from ssprompt_platform.report.statistics import round_targets, telling_targets

MEANS = {
    ("zero_shot", 1): 0.2, ("spa", 1): 0.1, ("sem", 1): 0.15,
    ("zero_shot", 4): 0.2, ("spa", 4): 0.37, ("sem", 4): 0.5,
}  # fmt: skip


def row(method: str, shots: int, mean: float) -> dict[str, Any]:
    fixed = method == "zero_shot"
    return {
        "method": method, "shots": shots, "mean": mean, "ci95": None, "draws": [mean],
        "deterministic": fixed, "things": None, "best": {}, "trainable_parameters": 0,
    }  # fmt: skip


ROWS = [row(method, shots, mean) for (method, shots), mean in MEANS.items()]
COMPARISONS = [
    {"shots": k, "first": a, "second": b, "statement": f"{a} {b} {k}"}
    for k in (1, 4)
    for a, b in (("zero_shot", "spa"), ("zero_shot", "sem"), ("spa", "sem"))
]


def test_the_best_method_is_held_against_the_runner_up_and_against_no_learning() -> None:
    # at K = 1 no learning is the best itself, and is held against the runner-up alone
    assert leading_statements(ROWS, COMPARISONS) == [
        "zero_shot sem 1",
        "spa sem 4",
        "zero_shot sem 4",
    ]


def test_a_method_alone_has_nobody_to_be_held_against() -> None:
    assert leading_statements(ROWS[:1], COMPARISONS) == []
    assert leading_statements([], []) == []


def test_failures_of_one_cause_are_one_sentence() -> None:
    trials = [{"trial": f"spa-k1-t00{n}", "cause": "loss is NaN"} for n in range(6)]
    trials.append({"trial": "sem-k1-t000", "cause": "out of memory"})
    fits = [{"method": "spa", "shots": 4, "draw": 2, "cause": "out of memory"}]
    assert failure_sentences(trials, fits) == [
        "6 trials (spa-k1-t000, spa-k1-t001, spa-k1-t002, spa-k1-t003 and 2 more): loss is NaN",
        "1 trial (sem-k1-t000): out of memory",
        "1 final fit (spa-k4-d2): out of memory",
    ]
    assert failure_sentences([], []) == []


def test_targets_are_round_and_span_the_means_of_what_learns() -> None:
    scores = {"spa": {1: [0.1, None], 4: [0.36, 0.38]}, "sem": {1: [0.15, 0.15], 4: [0.5, None]}}
    # nine multiples of .05 would be too many
    assert round_targets(scores) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert round_targets({"spa": {1: [0.31, 0.33], 4: [0.38, 0.40]}}) == [0.35, 0.4]
    assert round_targets({"spa": {1: [0.96, 0.98]}}) == []
    assert round_targets({}) == []


def test_the_telling_targets_are_those_that_all_and_that_one_have_reached() -> None:
    assert telling_targets(ROWS, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == [0.3, 0.5]
    # what nobody has reached is asked all the same: the lowest is nearest
    assert telling_targets(ROWS, [0.55, 0.6]) == [0.55]
    assert telling_targets(ROWS, []) == []
    assert telling_targets(ROWS[:1], [0.1]) == []


def printed(show: Any, *words: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(console, *words)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_remarks_stand_right_below_the_scores() -> None:
    study = {"model": "small", "test_images": 6, "data": "scenes", "remarks": ["on a holdout"]}
    rows = [{**r, "best": {"lr": 0.1}} for r in ROWS]
    text = printed(print_scores, study, rows)
    assert 0 < text.index("0.370") < text.index("on a holdout") < text.index("lr=0.1")


@pytest.mark.parametrize(("targets", "said"), [((), [".3", ".5"]), ((0.4,), [".4"])])
def test_every_method_answers_for_the_same_targets(targets: Any, said: list[str]) -> None:
    answers = [{"target": t, "statement": f"{t:g}"[1:] + " takes"} for t in (0.3, 0.4, 0.5)]
    curves = {"spa": {"answers": answers}, "sem": {"refused": "too few K"}}
    lines = [line.strip() for line in printed(print_curves, curves, ROWS, targets).splitlines()]
    assert [line for line in lines if ":" in line] == [
        *(f"spa: {target} takes" for target in said), "sem: too few K",
    ]  # fmt: skip
