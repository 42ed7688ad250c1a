"""What is printed of a study: the comparisons that matter, failures by cause, targets that tell."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from study_folder import write_study

from ssprompt_core.methods import METHODS
from ssprompt_platform.report.compare import compare
from ssprompt_platform.report.gather import gather
from ssprompt_platform.report.printed import (
    failure_sentences,
    from_here,
    leading_statements,
    print_comparison,
    print_curves,
    print_results,
    print_scores,
    tell,
    told_differences,
)
from ssprompt_platform.report.results import results_of
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


def printed(show: Any, *words: Any, terminal: int = 0) -> str:
    """What is printed to a file, or to a terminal of so many columns."""
    console = Console(
        file=io.StringIO(), width=terminal or None, force_terminal=bool(terminal), color_system=None
    )
    show(console, *words)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


STUDY = {
    "id": "s", "model": "small", "test_images": 6, "data": "scenes", "remarks": ["on a holdout"],
    "searched": {"spa": ["lr_weight"]}, "selection": "cv",
}  # fmt: skip


def results(rows: list[dict[str, Any]], **study: Any) -> dict[str, Any]:
    """What is printed of, without what a test does not look at."""
    return {
        "study": {**STUDY, **study}, "rows": rows, "statistics": {"methods": [], "curves": {}},
        "search": {"failed": []}, "failed": [], "missing": [],
    }  # fmt: skip


def test_remarks_stand_right_below_the_scores_and_the_protocol_is_one_sentence() -> None:
    rows = [{**r, "best": {"lr_weight": 0.1, "decoding": "per_class"}} for r in ROWS]
    text = printed(print_results, results(rows))
    assert 0 < text.index("0.370") < text.index("on a holdout") < text.index("lr_weight=0.1")
    assert "chosen within the K-shot support images, in folds, never on test images" in text
    # what was not searched was not chosen
    assert "per_class" not in text
    unsearched = printed(print_results, results(rows, searched={}))
    assert "lr_weight" not in unsearched
    assert "never on test images" not in unsearched


def test_all_k_of_a_method_that_chose_alike_are_one_line() -> None:
    values = {1: 0.1, 2: 0.3, 4: 0.1}
    rows = [{**row("spa", k, 0.5), "best": {"lr_weight": lr}} for k, lr in values.items()]
    lines = printed(print_results, results(rows)).splitlines()
    chosen = [line.split() for line in lines if "lr_weight=" in line]
    assert chosen == [["spa", "1,", "4", "lr_weight=0.1"], ["2", "lr_weight=0.3"]]


def score(method: str, shots: int, draws: int = 5) -> dict[str, Any]:
    """A row with an interval, and with means of things and stuff."""
    fixed = not METHODS[method].uses_support
    mean = 0.1 + (0.0 if fixed else 0.01 * shots) + 0.001 * len(method)
    sides = {side: {"mean": mean} for side in ("things", "stuff")}
    return {
        **row(method, shots, mean), **sides, "trainable_parameters": 1000 * shots,
        "draws": [mean] * (1 if fixed else draws), "deterministic": fixed,
        "ci95": None if fixed else [mean - 0.05, mean + 0.05],
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("shots", [(1,), (1, 4, 16), (1, 2, 4, 8, 16)])
def test_no_score_is_cut_off_in_a_terminal_of_any_width(width: int, shots: tuple[int, ...]) -> None:
    rows = [score(method, k, 5 - (k == 4)) for method in METHODS for k in shots]
    text = printed(print_scores, STUDY, rows, terminal=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for one in rows:
        assert f"{one['mean']:.3f}" in text
        if one["ci95"]:
            assert f"[{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]" in text
        assert one["method"] in text.split()
    # the number of draws stands once for all, and again where some are missing
    assert "over 5 support draws" in " ".join(text.split())
    learning = sum(METHODS[method].uses_support for method in METHODS)
    assert text.count(" n=4") == learning * (4 in shots)
    assert "n=5" not in text


def test_a_wide_terminal_has_a_line_for_each_method() -> None:
    rows = [score(method, k) for method in ("zero_shot", "spa") for k in (1, 4)]
    wide, narrow = (printed(print_scores, STUDY, rows, terminal=w) for w in (120, 60))
    (spa,) = [line for line in wide.splitlines() if "spa" in line]
    assert [part for part in spa.split() if part.startswith("0.")] == [
        *("0.113", "0.163]", "0.143", "0.193]", "0.143", "0.143"),
    ]  # fmt: skip
    assert "1,000 to 4,000" in spa
    # without K and draws: one line, whatever the width
    assert [text.count("zero_shot") for text in (wide, narrow)] == [1, 1]
    assert narrow.count("[0.") == 2
    missing = printed(print_scores, STUDY, [score("spa", 1), score("sem", 4)], terminal=120)
    assert [line.split()[-3] for line in missing.splitlines() if "spa" in line] == ["-"]


def test_sentences_are_folded_between_words_in_a_terminal_only() -> None:
    sentence = "  " + " ".join(["word-of-many-letters"] * 12)
    lines = printed(tell, sentence, terminal=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[: len(line) - len(line.lstrip())] for line in lines] == ["  ", *["    "] * 3]
    assert " ".join(" ".join(lines).split()) == sentence.strip()
    assert printed(tell, sentence) == f"{sentence}\n"


def test_places_below_the_working_folder_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(f"{tmp_path}/runs/a/report") == "runs/a/report"
    assert from_here(f"ui --uri sqlite:///{tmp_path}/runs/a.db") == "ui --uri sqlite:///runs/a.db"
    for elsewhere in (f"{tmp_path}-2/a", f"/mnt{tmp_path}/a", "/"):
        assert from_here(elsewhere) == elsewhere


def test_a_comparison_fits_a_narrow_terminal_and_tells_what_differs(tmp_path: Path) -> None:
    methods = ["zero_shot", "linear_probe", "ssprompt"]
    ids = ("default-20260301-090000", "default-20260302-090000")
    first, second = (
        gather(write_study(tmp_path, i, methods=methods, trials=0, better=b))
        for i, b in zip(ids, (0.0, 0.06), strict=True)
    )
    text = printed(print_comparison, compare(first, second), terminal=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert f"difference: {ids[0]} minus {ids[1]}" in " ".join(text.split())


def test_differences_that_are_chance_are_counted() -> None:
    rows = [
        {"statement": f"s{n}", "significant": n < 2, "p": None if n == 4 else 0.1} for n in range(5)
    ]
    assert told_differences(rows) == ["s0", "s1", "2 of 4 tests tell no difference from chance"]
    assert told_differences(rows[:2]) == ["s0", "s1"]
    assert told_differences([]) == []


def test_what_was_searched_is_what_the_space_lets_vary(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "s", methods=["zero_shot", "linear_probe", "spa"])
    assert results_of(gather(folder))["study"]["searched"] == {
        "linear_probe": ["lr_probe", "weight_decay"],
        "spa": ["num_prompts", "lr_embedding", "lr_weight"],
    }


@pytest.mark.parametrize(("targets", "said"), [((), [".3", ".5"]), ((0.4,), [".4"])])
def test_every_method_answers_for_the_same_targets(targets: Any, said: list[str]) -> None:
    answers = [{"target": t, "statement": f"{t:g}"[1:] + " takes"} for t in (0.3, 0.4, 0.5)]
    curves = {"spa": {"answers": answers}, "sem": {"refused": "too few K"}}
    lines = [line.strip() for line in printed(print_curves, curves, ROWS, targets).splitlines()]
    assert [line for line in lines if ":" in line] == [
        *(f"spa: {target} takes" for target in said), "sem: too few K",
    ]  # fmt: skip
