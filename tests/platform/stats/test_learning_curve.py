"""Learning curves: planted ones are found with honest bands, and what cannot be said is not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssprompt_core.errors import UserError
from ssprompt_platform.stats.curve import Curve, NoCurve, fit_curve

SHOTS = (1, 2, 4, 8, 16)
TRUTH = (0.75, 0.35, 0.6)
LABELLED = {1: 5.0, 2: 9.0, 4: 17.0, 8: 33.0, 16: 65.0}


def truth_at(k, truth=TRUTH):
    a, b, c = truth
    return a - b * k**-c


def planted(seed=0, noise=0.02, truth=TRUTH, draws=5, shots=SHOTS, common=0.7):
    """Draws that are better or worse at every K, more so at small K."""
    rng = np.random.default_rng(seed)
    shared = math.sqrt(common) * rng.standard_normal(draws)
    own = math.sqrt(1 - common)
    return {
        k: np.clip(
            truth_at(k, truth)
            + noise * k**-0.25 * (shared + own * rng.standard_normal(draws)), 0, 1,
        ).tolist()
        for k in shots
    }  # fmt: skip


def fitted(draws, **options) -> Curve:
    curve = fit_curve(draws, **options)
    assert isinstance(curve, Curve), curve
    return curve


@pytest.mark.parametrize("truth", [TRUTH, (0.9, 0.6, 0.25), (0.6, 0.2, 1.5)])
def test_planted_curves_are_found(truth):
    curve = fitted(planted(noise=0.003, truth=truth))
    for k in (1, 3, 16, 32):
        assert curve.predict(k)[0] == pytest.approx(truth_at(k, truth), abs=0.01)
    assert curve.growth == "grows"
    assert curve.misses == ()
    assert curve.rise[0] == pytest.approx(truth_at(16, truth) - truth_at(1, truth), abs=0.01)


@pytest.mark.parametrize("common", [0.0, 0.7])
def test_bands_and_the_interval_of_k_hold_the_truth(common):
    asked = (1, 4, 16, 32)
    target = truth_at(12)
    held = []
    for seed in range(120):
        curve = fitted(planted(seed, noise=0.03, common=common), seed=seed, resamples=300)
        bands = [curve.predict(k)[1:] for k in asked]
        low, high = curve.shots_interval(target)
        held.append(
            [
                *(lo <= truth_at(k) <= hi for k, (lo, hi) in zip(asked, bands, strict=True)),
                low <= 12 <= high,
                curve.misses == (),
            ]
        )
    shares = np.mean(held, axis=0)
    assert (shares >= 0.87).all()  # 95 %, less what 5 draws and 300 resamples cost
    assert shares[:4].mean() >= 0.91


def test_the_answer_is_the_smallest_whole_k_that_reaches_the_target():
    curve = fitted(planted(), labelled=LABELLED)
    answer = curve.labels_for(0.65)
    assert answer.status == "answered"
    assert curve.predict(answer.shots)[0] >= 0.65 > curve.predict(answer.shots - 1)[0]
    low, high = answer.ci95
    assert low <= answer.shots <= high
    assert answer.labelled == pytest.approx(4 * answer.shots + 1)
    assert answer.statement == (
        f".650 mIoU needs K = {answer.shots} (95 % interval {low} to {high}), "
        f"about {answer.labelled:.0f} labelled images"
    )


def test_answers_beyond_the_largest_k_say_so_and_end_at_the_reach():
    curve = fitted(planted(noise=0.005))
    inside = curve.labels_for(truth_at(24))
    assert 16 < inside.shots <= 32
    assert inside.statement.endswith(", extrapolated beyond K = 16")
    outside = curve.labels_for(truth_at(48))
    assert (outside.status, outside.shots, outside.ci95) == ("beyond_reach", None, None)
    assert outside.statement.endswith(
        "would need more than 32 labelled images a class, beyond twice the largest K measured "
        "(16): not answered"
    )


def test_an_uncertain_answer_has_an_open_end():
    curve = fitted(planted(noise=0.06, common=0.0))
    answer = curve.labels_for(curve.predict(28)[0])
    assert answer.ci95[1] is None
    assert "to more than 32)" in answer.statement


def test_targets_met_at_once_and_targets_never_reached():
    curve = fitted(planted(noise=0.005))
    met = curve.labels_for(0.3)
    assert (met.status, met.shots) == ("met", 1)
    assert "is met at K = 1, the smallest K measured: .399 [" in met.statement
    never = curve.labels_for(0.9)
    assert (never.status, never.shots) == ("never", None)
    assert "is not reached at any K: the fitted curve levels off at .7" in never.statement


def test_scores_that_fall_with_k_do_not_grow():
    curve = fitted({k: [0.6 - 0.01 * k, 0.62 - 0.01 * k] for k in SHOTS})
    assert (curve.growth, curve.b) == ("none", 0)
    assert curve.statement().startswith("mIoU does not grow with K: .5")
    answer = curve.labels_for(0.9)
    assert (answer.status, answer.shots) == ("flat", None)
    assert "do not grow with K" in answer.statement
    assert curve.labels_for(0.4).status == "met"
    assert all(row["gain"] == 0 for row in curve.worth())


def test_growth_within_the_noise_is_unsure():
    noisy = [
        fitted(planted(seed, noise=0.1, truth=(0.5, 0.02, 0.5), common=0.0), resamples=200)
        for seed in range(12)
    ]
    unsure = [curve for curve in noisy if curve.growth == "unsure"]
    assert len(unsure) >= 3
    assert sum(curve.growth == "grows" for curve in noisy) <= 3
    assert all("that it grows with K at all cannot be told" in c.statement() for c in unsure)


def test_a_form_that_does_not_hold_is_told():
    # a step between K = 4 and K = 8 is no power law
    draws = {
        k: [level + noise for noise in (-0.004, 0.0, 0.004, 0.002, -0.002)]
        for k, level in zip(SHOTS, (0.3, 0.3, 0.3, 0.7, 0.7), strict=True)
    }
    curve = fitted(draws)
    assert curve.misses
    assert "it lies outside of the interval measured at K = " in curve.statement()


def test_three_values_of_k_are_enough_but_check_nothing():
    curve = fitted(planted(shots=(1, 4, 16)))
    assert curve.statement().endswith("three values of K leave nothing to check its form by")


@pytest.mark.parametrize(
    ("draws", "said"),
    [
        ({}, "a curve needs 3 values of K with 2 draws each, not none"),
        ({1: [0.1, 0.2], 4: [0.2, 0.3]}, "not K = 1, 4"),
        ({1: [0.1], 4: [0.2], 16: [0.3]}, "not none"),
        ({1: [0.1, 0.2], 4: [0.2, 0.3], 16: [0.3, None]}, "not K = 1, 4"),
        (
            {1: [0.1, 0.2, None], 4: [0.2, None, 0.3], 16: [None, 0.4, 0.4]},
            "2 draws that have a score at every K, not 0",
        ),
    ],
)
def test_too_little_gives_a_sentence_in_place_of_a_curve(draws, said):
    refused = fit_curve(draws)
    assert isinstance(refused, NoCurve)
    assert said in refused.refused
    assert refused.to_dict() == {"refused": refused.refused}


def test_unfinished_draws_and_k_are_left_out():
    whole = planted()
    part = {k: [*values, 0.9 if k < 16 else math.nan] for k, values in whole.items()}
    part[32] = [0.9, None, None, None, None]
    assert fitted(part) == fitted(whole)


def test_questions_out_of_range_are_refused_in_a_sentence():
    curve = fitted(planted())
    for k in (0.5, 33):
        with pytest.raises(UserError, match=f"K = {k} lies outside .* from 1 to 32"):
            curve.predict(k)
    for target in (0, 1.2, math.nan):
        with pytest.raises(UserError, match="target is"):
            curve.labels_for(target)


@pytest.mark.parametrize(
    "draws", [{1: [math.inf, 0.1]}, {1: [1.2, 0.1]}, {1: [-0.1, 0.2]}, {0: [0.1, 0.2]}]
)
def test_impossible_scores_are_refused(draws):
    with pytest.raises(ValueError, match=r"K is at least 1, scores in \[0, 1\]"):
        fit_curve(draws)
    with pytest.raises(ValueError, match="at least 100"):
        fit_curve(planted(), resamples=50)


def test_worth_of_one_more_shot_falls_along_the_curve_and_is_priced():
    curve = fitted(planted(noise=0.005), labelled=LABELLED)
    rows = curve.worth()
    assert [row["shots"] for row in rows] == list(SHOTS)
    gains = [row["gain"] for row in rows]
    assert gains == sorted(gains, reverse=True)
    for k, row in zip(SHOTS, rows, strict=True):
        assert row["gain"] == pytest.approx(curve.predict(k + 1)[0] - curve.predict(k)[0])
        assert row["ci95"][0] <= row["gain"] <= row["ci95"][1]
        assert row["labels_more"] == pytest.approx(4)
        assert row["gain_per_label"] == pytest.approx(row["gain"] / 4)
    assert all(row["gain_per_label"] is None for row in fitted(planted()).worth())


def test_images_between_and_beyond_the_measured_k_lie_on_straight_lines():
    curve = fitted(planted(), labelled={2: 9.0, 4: 17.0, 16: 41.0})
    assert [curve.labels_at(k) for k in (1, 2, 3, 10, 16, 20)] == [None, 9, 13, 29, 41, 49]
    assert fitted(planted(), labelled={4: 17.0}).labels_at(4) is None


def test_equal_draws_give_a_band_of_no_width():
    curve = fitted({k: [truth_at(k)] * 3 for k in SHOTS})
    mean, low, high = curve.predict(4)
    assert mean == pytest.approx(truth_at(4), abs=1e-6)
    assert (low, high) == pytest.approx((mean, mean), abs=1e-9)
    assert curve.misses == ()


def test_the_record_is_json_and_its_band_ends_at_the_reach():
    curve = fitted(planted(), labelled=LABELLED)
    record = json.loads(json.dumps(curve.to_dict([0.3, 0.6, 0.9]), allow_nan=False))
    assert [answer["status"] for answer in record["answers"]] == ["met", "answered", "never"]
    band = record["band"]
    assert (band[0]["shots"], band[-1]["shots"], record["reach"]) == (1, 32, 32)
    assert {point["shots"] for point in band} >= set(SHOTS)
    assert all(point["extrapolated"] == (point["shots"] > 16) for point in band)
    assert all(p["ci95"][0] <= p["mean"] <= p["ci95"][1] for p in band)
    assert record["ci95"]["a"][0] <= record["a"] <= record["ci95"]["a"][1]


SCORES = st.lists(
    st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=5
)  # [draw][K]


@given(table=SCORES, order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_whatever_the_scores_the_curve_is_sane_and_the_order_of_draws_is_nothing(table, order):
    shots = (1, 3, 9, 20)
    columns = {k: [row[i] for row in table] for i, k in enumerate(shots)}
    curve = fitted(columns, resamples=100)
    points = [curve.predict(k) for k in (1, 2, 3, 9, 20, 40)]
    means = [mean for mean, _, _ in points]
    assert all(0 <= low <= mean <= high <= 1 for mean, low, high in points)
    assert means == sorted(means)
    needed = [curve.labels_for(target).shots for target in (0.1, 0.3, 0.5, 0.7, 0.9)]
    reached = [k for k in needed if k is not None]
    assert reached == sorted(reached)
    assert needed[: len(reached)] == reached  # once a target is refused, all higher ones are
    json.dumps(curve.to_dict([0.5]), allow_nan=False)
    rows = order.sample(table, len(table))
    shuffled = fitted({k: [row[i] for row in rows] for i, k in enumerate(shots)}, resamples=100)
    for k in shots:
        assert shuffled.predict(k) == pytest.approx(curve.predict(k), abs=1e-6)


@given(shift=st.floats(-0.1, 0.05), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_a_shift_of_all_scores_shifts_the_curve(shift, seed):
    draws = planted(seed, noise=0.005)
    moved = fitted({k: [v + shift for v in values] for k, values in draws.items()}, resamples=100)
    curve = fitted(draws, resamples=100)
    for k in SHOTS:
        assert moved.predict(k)[0] == pytest.approx(curve.predict(k)[0] + shift, abs=1e-5)
