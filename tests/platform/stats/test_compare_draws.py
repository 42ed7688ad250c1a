"""Paired comparisons: pairing, Holm's correction, and what is said where no test can be made."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssprompt_platform.stats.compare import compare_methods, compare_shots
from ssprompt_platform.stats.paired import holm

FIXED = {"zero_shot", "template_ensemble"}


def study(seed=0, gain=0.02):
    """Draws differ a lot, methods within a draw little: what pairing is for."""
    rng = np.random.default_rng(seed)
    draw = rng.normal(0, 0.05, 5)
    return {
        "zero_shot": {1: [0.30], 4: [0.30]},
        "spa": {k: list(0.5 + 0.03 * k + draw + rng.normal(0, 0.003, 5)) for k in (1, 4)},
        "ssprompt": {
            k: list(0.5 + gain + 0.03 * k + draw + rng.normal(0, 0.003, 5)) for k in (1, 4)
        },
    }


def row_of(rows, **labels):
    (row,) = [row for row in rows if all(row[name] == value for name, value in labels.items())]
    return row


def test_every_pair_at_every_k_is_tested_on_its_differences():
    draws = study()
    rows = compare_methods(draws, deterministic=FIXED)
    assert [(r["shots"], r["first"], r["second"]) for r in rows] == [
        (k, first, second)
        for k in (1, 4)
        for first, second in (
            ("zero_shot", "spa"), ("zero_shot", "ssprompt"), ("spa", "ssprompt"),
        )
    ]  # fmt: skip
    row = row_of(rows, shots=4, first="spa", second="ssprompt")
    expected = stats.ttest_rel(draws["spa"][4], draws["ssprompt"][4])
    interval = expected.confidence_interval(0.95)
    assert row["p"] == pytest.approx(expected.pvalue)
    assert row["ci95"] == pytest.approx([interval.low, interval.high])
    assert row["difference"] == pytest.approx(
        np.mean(draws["spa"][4]) - np.mean(draws["ssprompt"][4])
    )
    assert (row["n"], row["family"], row["family_size"]) == (5, "methods", 6)
    assert row["significant"]
    # unpaired, the same scores tell nothing: the draws differ more than the methods
    assert stats.ttest_ind(draws["spa"][4], draws["ssprompt"][4]).pvalue > 0.05


def test_what_learns_nothing_is_compared_with_every_draw():
    draws = study()
    row = row_of(
        compare_methods(draws, deterministic=FIXED), shots=1, first="zero_shot", second="spa"
    )
    expected = stats.ttest_1samp(0.30 - np.array(draws["spa"][1]), 0.0)
    assert row["n"] == 5
    assert row["p"] == pytest.approx(expected.pvalue)


def test_a_baseline_makes_the_family_smaller_and_stands_second():
    rows = compare_methods(study(), deterministic=FIXED, baseline="zero_shot")
    assert {(r["first"], r["second"]) for r in rows} == {
        ("spa", "zero_shot"), ("ssprompt", "zero_shot"),
    }  # fmt: skip
    assert {r["family_size"] for r in rows} == {4}
    assert all(r["difference"] > 0 for r in rows)
    with pytest.raises(ValueError, match="baseline is 'nothing'.*zero_shot, spa, ssprompt"):
        compare_methods(study(), deterministic=FIXED, baseline="nothing")


def test_the_sentence_names_the_better_one_with_its_evidence():
    rows = compare_methods(
        {
            "zero_shot": {4: [0.40]},
            "ssprompt": {4: [0.50, 0.54, 0.52, 0.49, 0.55]},
            "sem": {4: [0.51, 0.53, 0.54, 0.47, 0.55]},
        },
        deterministic={"zero_shot"},
    )
    first, _, last = (row["statement"] for row in rows)
    assert first == (
        "ssprompt is better than zero_shot at K = 4 by .120 [.088, .152] "
        "(paired t-test over 5 draws, p = .001 after Holm for 3 comparisons)"
    )
    assert last.startswith("no difference can be told between ssprompt and sem at K = 4: .000 [")


def test_the_sentence_says_when_only_the_interval_tells_a_difference():
    rng = np.random.default_rng(3)
    found = [
        row
        for seed in range(20)
        for row in compare_methods(
            {f"m{m}": {1: rng.normal(0.5 + 0.001 * seed, 0.01, 5).tolist()} for m in range(6)},
            deterministic=(),
        )
        if row["p"] < 0.05 <= row["p_holm"]
    ]
    assert found
    for row in found:
        assert not row["significant"]
        assert row["statement"].startswith("no difference can be told")
        assert row["statement"].endswith("the interval is of this comparison alone)")


def test_missing_draws_are_left_out_in_pairs():
    draws = study()
    spa, ssprompt = (list(draws[name][1]) for name in ("spa", "ssprompt"))
    spa[0], ssprompt[3] = None, math.nan
    draws["spa"][1], draws["ssprompt"][1] = spa, ssprompt[:4]  # the last draw is not there at all
    row = row_of(compare_methods(draws, deterministic=FIXED), shots=1, first="spa")
    expected = stats.ttest_rel([spa[1], spa[2]], [ssprompt[1], ssprompt[2]])
    assert row["n"] == 2
    assert row["p"] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("common", "said"), [(1, "1 draw in common"), (0, "0 draws in common")])
def test_fewer_than_two_common_draws_are_no_test(common, said):
    draws = study()
    draws["spa"][1] = [None, None, None, None, 0.5] if common else [None] * 5
    row = row_of(compare_methods(draws, deterministic=FIXED), shots=1, first="spa")
    assert (row["p"], row["p_holm"], row["ci95"], row["significant"]) == (None, None, None, False)
    assert row["n"] == common
    assert (row["difference"] is None) == (common == 0)
    assert row["statement"].startswith("no test of spa against ssprompt at K = 1: " + said)
    assert row["family_size"] == 4


def test_one_finished_draw_is_not_taken_for_a_method_that_learns_nothing():
    draws = study()
    draws["spa"][1] = draws["spa"][1][:1]
    row = row_of(compare_methods(draws, deterministic=FIXED), shots=1, first="spa")
    assert row["n"] == 1
    assert row["p"] is None


def test_two_methods_that_learn_nothing_are_no_test():
    draws = {**study(), "template_ensemble": {1: [0.35], 4: [0.35]}}
    row = row_of(
        compare_methods(draws, deterministic=FIXED), shots=1, second="template_ensemble",
        first="zero_shot",
    )  # fmt: skip
    assert (row["p"], row["ci95"], row["n"]) == (None, None, 1)
    assert row["difference"] == pytest.approx(-0.05)
    assert "both learn nothing" in row["statement"]
    assert "(mean difference -.050)" in row["statement"]


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_the_same_difference_in_all_draws_is_no_test_and_no_nan(difference):
    scores = [0.5, 0.6, 0.55, 0.52, 0.58]
    draws = {"a": {1: [s + difference for s in scores]}, "b": {1: scores}}
    (row,) = compare_methods(draws, deterministic=())
    assert (row["p"], row["significant"], row["family_size"]) == (None, False, 0)
    assert row["ci95"] == pytest.approx([difference, difference])
    assert "the same in all 5 draws" in row["statement"]


def test_impossible_scores_are_refused():
    with pytest.raises(ValueError, match="scores of a at K = 1"):
        compare_methods({"a": {1: [math.inf]}, "b": {1: [0.5]}}, deterministic=())
    with pytest.raises(ValueError, match="zero_shot learns nothing but has 2 scores"):
        compare_methods({"zero_shot": {1: [0.1, 0.2]}}, deterministic=FIXED)


def test_holm_by_hand():
    size, corrected = holm([0.01, None, 0.04, 0.03, 0.005])
    assert size == 4
    assert corrected == [pytest.approx(0.03), None, *[pytest.approx(0.06)] * 2, pytest.approx(0.02)]
    assert holm([]) == (0, [])
    assert holm([0.7, 0.9]) == (2, [1.0, 1.0])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(values):
    size, corrected = holm(values)
    tested = [(p, c) for p, c in zip(values, corrected, strict=True) if p is not None]
    assert size == len(tested)
    assert all(p <= c <= min(1.0, size * p) + 1e-12 for p, c in tested)
    ordered = [c for _, c in sorted(tested)]
    assert ordered == sorted(ordered)


def test_false_differences_of_a_whole_study_stay_below_5_percent():
    rng = np.random.default_rng(0)
    plain = corrected = 0
    studies = 300
    for _ in range(studies):
        # four equal methods at two K: common effect of the draw, own noise
        scores = rng.normal(0.6, 0.03, (1, 2, 5)) + rng.normal(0, 0.015, (4, 2, 5))
        draws = {f"m{m}": {1: list(scores[m, 0]), 4: list(scores[m, 1])} for m in range(4)}
        rows = compare_methods(draws, deterministic=())
        plain += any(row["p"] < 0.05 for row in rows)
        corrected += any(row["significant"] for row in rows)
    assert corrected / studies <= 0.07  # 5 % and its own error
    assert plain / studies > 0.25


def test_shots_are_compared_with_the_next_on_nested_draws_and_priced():
    draws = study()
    rows = compare_shots(draws, deterministic=FIXED, labelled={1: 5.0, 4: 17.0})
    assert [(r["method"], r["shots"], r["next"]) for r in rows] == [
        ("spa", 1, 4), ("ssprompt", 1, 4),
    ]  # fmt: skip
    row = rows[0]
    assert row["p"] == pytest.approx(stats.ttest_rel(draws["spa"][4], draws["spa"][1]).pvalue)
    assert row["difference"] == pytest.approx(np.mean(draws["spa"][4]) - np.mean(draws["spa"][1]))
    assert row["labels_more"] == 12
    assert row["gain_per_label"] == pytest.approx(row["difference"] / 12)
    assert (row["family"], row["family_size"]) == ("shots", 2)
    assert re.fullmatch(
        r"spa gains \.08\d \[.*\] from K = 1 to K = 4 \(paired t-test over 5 draws, p < \.001 "
        r"after Holm for 2 comparisons\): \.007\d for each of 12 further labelled images",
        row["statement"],
    )


def test_shots_without_prices_losses_and_too_few_draws():
    falling = {"a": {1: [0.5, 0.51, 0.49, 0.52], 4: [0.4, 0.42, 0.39, 0.41], 16: [0.4]}}
    fall, last = compare_shots(falling, deterministic=())
    assert (fall["labels_more"], fall["gain_per_label"]) == (None, None)
    assert fall["significant"]
    assert fall["statement"].startswith("a loses .100 [")
    assert last["p"] is None
    assert last["statement"].startswith("no test of a from K = 4 to K = 16: 1 draw in common")
    same = compare_shots(falling, deterministic=(), labelled={1: 9, 4: 9})
    assert (same[0]["labels_more"], same[0]["gain_per_label"]) == (0, None)


@given(
    scores=st.lists(
        st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)), min_size=3, max_size=8
    ).filter(lambda pairs: np.ptp([a - b for a, b in pairs]) > 1e-3),
    shift=st.floats(-0.1, 0.1),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_swapping_shuffling_and_shifting_change_only_what_they_must(scores, shift, order):
    first, second = zip(*scores, strict=True)
    (row,) = compare_methods({"a": {1: first}, "b": {1: second}}, deterministic=())
    (swapped,) = compare_methods({"b": {1: second}, "a": {1: first}}, deterministic=())
    assert swapped["difference"] == pytest.approx(-row["difference"])
    assert swapped["ci95"] == pytest.approx([-end for end in reversed(row["ci95"])])
    shuffled = [
        tuple(value + shift for value in pair) for pair in order.sample(scores, len(scores))
    ]
    first, second = zip(*shuffled, strict=True)
    (moved,) = compare_methods({"a": {1: first}, "b": {1: second}}, deterministic=())
    for other in (swapped, moved):
        assert other["p"] == pytest.approx(row["p"], rel=1e-4, abs=1e-9)
