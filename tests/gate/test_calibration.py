"""Thresholds, intervals and statements: by hand, against an oracle, and in replays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.gate.calibration import (
    claimed_share,
    correlation_length,
    decorrelated_places,
    effective_count,
    error_interval_factor,
    frames_needed,
    missed_failures,
    missed_share_threshold,
    share_within,
    split_groups,
    weighted_quantile,
)

scores = st.lists(st.floats(0, 1e3), min_size=1, max_size=60).map(np.array)


# the threshold that bounds the missed share given bad


@pytest.mark.parametrize(
    ("count", "share", "k"),
    # floor(share (n + 1)); 0.29 x 100 is 28.999... in floating point
    [(8, 0.1, 0), (9, 0.1, 1), (18, 0.1, 1), (19, 0.1, 2), (99, 0.1, 10), (99, 0.29, 29)],
)
def test_the_threshold_is_the_kth_smallest_score(count, share, k):
    shuffled = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert missed_share_threshold(shuffled, share) == (float(k) if k else None)


def test_without_bad_frames_there_is_no_threshold():
    assert missed_share_threshold(np.zeros(0), 0.5) is None


def test_weights_by_hand():
    # total 3 + 3 x 1, heaviest 3: below + 3 <= 0.5 x 9 allows what lies below to weigh 1.5
    values, weights = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0, 3.0])
    assert missed_share_threshold(values, 0.5, weights) == 2.0
    # heaviest at the bottom: below 2.0 lie 3, 3 + 3 > 4.5
    assert missed_share_threshold(values, 0.5, weights[::-1]) == 1.0


@given(scores, st.floats(0.01, 0.99), st.floats(0.1, 10))
def test_equal_weights_are_no_weights(values, share, weight):
    alike = np.full(len(values), weight)
    assert missed_share_threshold(values, share, alike) == missed_share_threshold(values, share)


@given(scores, st.floats(0.01, 0.99))
def test_the_threshold_keeps_its_bound_on_its_own_frames(values, share):
    threshold = missed_share_threshold(values, share)
    if threshold is not None:
        assert (values < threshold).sum() + 1 <= share * (len(values) + 1) * (1 + 1e-6)


@pytest.mark.parametrize("count", [9, 25, 60])
def test_new_bad_frames_are_missed_no_more_often_than_promised(count):
    random = np.random.default_rng(count)
    missed = []
    for _ in range(2000):
        threshold = missed_share_threshold(random.lognormal(size=count), 0.1)
        missed.append(float((random.lognormal(size=50) < threshold).mean()))
    error = np.std(missed) / math.sqrt(len(missed))
    assert np.mean(missed) <= 0.1 + 3 * error
    assert np.mean(missed) >= 0.1 - 1 / (count + 1) - 3 * error  # and not by asking everything


def test_weights_undo_a_selection_by_score():
    # frames above 1 are always labelled, the others with p = 0.2: the plain rule misses more
    random = np.random.default_rng(3)
    plain, weighted = [], []
    for _ in range(300):
        values = random.lognormal(size=400)
        probability = np.where(values > 1, 1.0, 0.2)
        labelled = random.random(400) < probability
        new = random.lognormal(size=200)
        chosen, weights = values[labelled], 1 / probability[labelled]
        plain.append((new < missed_share_threshold(chosen, 0.3)).mean())
        weighted.append((new < missed_share_threshold(chosen, 0.3, weights)).mean())
    assert np.mean(weighted) <= 0.30
    assert np.mean(plain) > 0.45


def test_a_nan_is_refused_everywhere():
    bad = np.array([1.0, np.nan, 2.0])
    for question in (
        lambda: missed_share_threshold(bad, 0.1),
        lambda: error_interval_factor(bad, 0.1),
        lambda: weighted_quantile(bad, 0.5),
        lambda: correlation_length(bad),
        lambda: missed_share_threshold(np.ones(3), 0.1, bad),
    ):
        with pytest.raises(InputError, match="NaN"):
            question()
    with pytest.raises(InputError, match="between 0 and 1"):
        missed_share_threshold(np.ones(3), 1.0)


# the error interval


@pytest.mark.parametrize(
    ("count", "share", "place"),
    [(9, 0.1, 9), (8, 0.1, None), (19, 0.1, 18), (99, 0.05, 95), (100, 0.05, 96), (0, 0.5, None)],
)
def test_the_interval_takes_the_ceiling_of_n_plus_one(count, share, place):
    ratios = np.arange(count, 0, -1.0)
    assert error_interval_factor(ratios, share) == (math.inf if place is None else place)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_the_interval_is_that_of_crepes(confidence):
    from crepes import ConformalRegressor

    random = np.random.default_rng(1)
    score, new = random.uniform(0.1, 1, 143), random.uniform(0.1, 1, 7)
    error = random.normal(size=143) * score
    oracle = ConformalRegressor().fit(residuals=error, sigmas=score)
    want = oracle.predict_int(y_hat=np.zeros(7), sigmas=new, confidence=confidence)
    factor = error_interval_factor(np.abs(error) / score, 1 - confidence)
    assert np.column_stack([-factor * new, factor * new]) == pytest.approx(want)


# quantiles


def test_the_quantile_is_the_smallest_value_that_reaches_the_share():
    values = np.array([4.0, 1.0, 3.0, 2.0, 5.0])
    assert weighted_quantile(values, 0.9) == 5.0
    assert weighted_quantile(values, 0.8) == 4.0
    assert weighted_quantile(values, 0.81) == 5.0


def test_an_audited_frame_counts_for_all_that_were_not_audited():
    # four flagged frames with ratio 4, one audited at p = 0.025 with ratio 1: 40 of 44 are calm
    ratios, weights = np.array([4.0, 4.0, 1.0, 4.0, 4.0]), np.array([1, 1, 40.0, 1, 1])
    assert weighted_quantile(ratios, 0.9) == 4.0
    assert weighted_quantile(ratios, 0.9, weights) == 1.0


@given(scores, st.floats(0.01, 0.99))
def test_without_weights_the_quantile_is_numpys(values, share):
    wanted = float(np.quantile(values, share, method="inverted_cdf"))
    assert weighted_quantile(values, share) == wanted


# missed failures


def test_missed_failures_are_the_unflagged_share_of_wilson():
    bad = np.zeros(149, dtype=bool)
    share, low, high = missed_failures(bad, np.full(149, 0.03), 0.5)
    assert (share, low) == (0.0, 0.0)
    # z^2 / (n + z^2), halved, where n is 149 / 0.97: so few of the frames are known
    assert high == pytest.approx(0.5 * 3.8415 / (153.608 + 3.8415), abs=1e-5)


def test_frames_that_were_all_audited_leave_nothing_to_chance():
    bad = np.array([True, False, False, False])
    assert missed_failures(bad, np.ones(4), 0.5) == (0.125, 0.125, 0.125)
    # half of them audited says as much as twice as many out of endless ones: Wilson of 0 in 8
    _, low, high = missed_failures(np.zeros(4, dtype=bool), np.full(4, 0.5), 1.0)
    assert (low, high) == (0.0, pytest.approx(3.8415 / (8 + 3.8415), abs=1e-5))


def test_without_audits_nothing_is_known():
    share, low, high = missed_failures(np.zeros(0, dtype=bool), np.zeros(0), 0.9)
    assert math.isnan(share)
    assert (low, high) == (0.0, 0.9)


def test_a_frame_audited_with_a_tenth_of_the_probability_counts_ten_times():
    share, _, _ = missed_failures(np.array([True, False]), np.array([0.01, 0.1]), 1.0)
    assert share == pytest.approx(10 / 11)
    assert effective_count(np.array([10.0, 1.0])) == pytest.approx(121 / 101)


def test_the_interval_is_wider_where_the_bad_frames_are_the_heavy_ones():
    p = np.array([0.2] * 50 + [0.03] * 20)
    light, heavy = np.arange(70) < 6, np.arange(70) >= 64
    shares, widths = [], []
    for bad in (light, heavy):
        share, low, high = missed_failures(bad, p, 1.0)
        assert low < share < high
        shares.append(share)
        widths.append(high - low)
    assert shares == pytest.approx([30 / 916.667, 200 / 916.667], abs=1e-5)
    assert widths[0] < 0.5 * widths[1]


@pytest.mark.parametrize("changing", [False, True])
def test_the_interval_covers_the_truth_in_95_of_100_runs(changing):
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(500):
        flagged = random.random(5000) < 0.1
        bad = ~flagged & (random.random(5000) < 0.04)
        probability = np.where(np.arange(5000) < 1000, 0.2, 0.03) if changing else 0.05
        probability = np.broadcast_to(probability, 5000)
        audited = ~flagged & (random.random(5000) < probability)
        _, low, high = missed_failures(bad[audited], probability[audited], float((~flagged).mean()))
        covered += low <= bad.mean() <= high
    assert 0.93 <= covered / 500 <= 0.98


@pytest.mark.parametrize(("first", "then"), [(0.15, 0.15), (0.3, 0.0), (0.02, 0.3)])
def test_the_interval_covers_the_truth_where_audits_decide_how_many_follow(first, then):
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        bad = random.random(800) < np.where(np.arange(800) < 400, first, then)
        draws, found, row, ended = random.random(800), [], 0, False
        for wrong, draw in zip(bad.tolist(), draws.tolist(), strict=True):
            probability = 0.2 if row < 10 else 0.03
            if draw < probability:
                found.append((wrong, probability))
                ended |= wrong and row >= 10
                row = 0 if wrong else row + 1
        wrongs, probabilities = (np.array(column) for column in zip(*found, strict=True))
        _, low, high = missed_failures(wrongs, probabilities, 1.0, ended=ended)
        covered += low <= bad.mean() <= high
    assert 0.93 <= covered / 400 <= 0.99


# statements


def test_59_93_and_124_frames():
    assert [frames_needed(failures) for failures in (0, 1, 2)] == [59, 93, 124]
    assert frames_needed(0, share=0.98) == 149


@pytest.mark.parametrize("failures", [0, 1, 2, 5])
def test_the_bound_is_the_binomial_one(failures):
    from scipy.stats import binomtest

    exact = binomtest(80 - failures, 80, alternative="greater").proportion_ci(0.95).low
    assert share_within(80, failures) == pytest.approx(exact)


def test_only_what_is_supported_is_claimed():
    assert claimed_share(58, 0) == 0.90
    assert claimed_share(59, 0) == 0.95
    assert claimed_share(92, 1) == 0.90
    assert claimed_share(93, 1) == 0.95
    assert claimed_share(5, 0) is None
    assert claimed_share(10, 10) is None
    assert claimed_share(0, 0) is None


def test_statements_are_true_as_often_as_they_say():
    random = np.random.default_rng(2)
    made = true = 0
    for _ in range(4000):
        good = random.uniform(0.85, 1.0)
        failures = int((random.random(70) > good).sum())
        claim = claimed_share(70, failures)
        if claim is not None:
            made += 1
            true += good >= claim
    assert made > 1000
    assert true / made >= 0.95


# independence and splits


def test_independent_values_have_length_one_and_repeated_ones_their_repetition():
    random = np.random.default_rng(0)
    values = random.normal(size=4000)
    assert correlation_length(values) == pytest.approx(1, abs=0.15)
    assert correlation_length(np.repeat(values[:800], 5)) == pytest.approx(5, rel=0.15)


def test_an_autoregressive_series_has_its_known_length():
    # AR(1) with coefficient a: (1 + a) / (1 - a) = 9
    random = np.random.default_rng(1)
    series = np.zeros(20_000)
    for step in range(1, len(series)):
        series[step] = 0.8 * series[step - 1] + random.normal()
    assert correlation_length(series) == pytest.approx(9, rel=0.2)


def test_a_constant_series_is_one_frame():
    assert correlation_length(np.full(30, 2.0)) == 30
    places = decorrelated_places(np.repeat([0, 1], 30), np.arange(60), np.full(60, 2.0))
    assert places.tolist() == [15, 45]


def test_thinning_goes_by_step_within_each_trajectory():
    series = np.repeat(np.random.default_rng(0).normal(size=200), 4)
    steps = np.arange(800)
    mixed = np.random.default_rng(1).permutation(800)
    trajectories = np.zeros(800, dtype=int)
    places = decorrelated_places(trajectories, steps[mixed], series[mixed])
    gaps = np.diff(np.sort(steps[mixed][places]))
    assert gaps.min() == gaps.max() >= 4
    assert places.tolist() == sorted(places.tolist())


@given(st.lists(st.integers(0, 6), min_size=2, max_size=50), st.floats(0.05, 0.9))
def test_no_group_is_on_both_sides(names, share):
    groups = np.array(names)
    held = split_groups(groups, share, np.random.default_rng(0))
    assert not set(groups[held]) & set(groups[~held])
    assert (~held).any()
    if len(set(names)) > 1:
        assert held.any()
