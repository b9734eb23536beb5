"""The score of several signals: against scikit-learn, monotone, and no better than shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.gate.comparison import area_under_curve, bootstrap_interval
from hybrid_calc.gate.score import SPREAD, Score, choose_score, fit_score, spread_alone

positive = st.floats(1e-4, 1e2)


def frames(count, *, novelty_weight, seed=0, groups=20):
    """Return signals of frames that are bad for their spread and, as told, their novelty."""
    random = np.random.default_rng(seed)
    spread, novelty = random.lognormal(size=count), random.lognormal(size=count)
    odds = 1.5 * np.log(spread) + novelty_weight * np.log(novelty) - 1.5
    bad = random.random(count) < 1 / (1 + np.exp(-odds))
    table = {SPREAD: spread, "novelty": novelty}
    return table, bad, np.ones(count), np.arange(count) % groups


def chosen(*arguments, seed=0):
    return choose_score(*arguments, tolerance=0.2, random=np.random.default_rng(seed))


def test_it_is_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    table, bad, _, _ = frames(400, novelty_weight=1.0)
    weights = np.random.default_rng(1).uniform(1, 30, 400)
    score = fit_score(table, bad, weights)
    logs = np.log(np.column_stack(list(table.values())))
    share = weights / weights.mean()
    centre = np.average(logs, axis=0, weights=share)
    scale = np.sqrt(np.average((logs - centre) ** 2, axis=0, weights=share))
    oracle = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
    oracle.fit((logs - centre) / scale, bad, sample_weight=share)
    expected = oracle.predict_proba((logs - centre) / scale)[:, 1]
    assert score.probabilities(table) == pytest.approx(expected, abs=2e-4)


def test_its_probabilities_are_shares_of_bad_frames():
    score = fit_score(*frames(4000, novelty_weight=1.0)[:3])
    table, bad, _, _ = frames(20_000, novelty_weight=1.0, seed=5)
    chance = score.probabilities(table)
    for low, high in ((0.05, 0.15), (0.2, 0.4), (0.5, 0.7), (0.8, 0.95)):
        here = (chance >= low) & (chance < high)
        assert bad[here].mean() == pytest.approx(chance[here].mean(), abs=0.05)


@given(positive, positive, st.floats(1.01, 100))
def test_more_of_a_signal_never_looks_better(spread, novelty, factor):
    score = FITTED
    here = {SPREAD: spread, "novelty": novelty}
    for name, value in here.items():
        assert score.probability({**here, name: value * factor}) >= score.probability(here)


@given(st.sampled_from([SPREAD, "novelty"]), positive)
def test_a_nan_or_a_missing_signal_is_as_bad_as_can_be(name, other):
    signals = {SPREAD: other, "novelty": other, name: math.nan}
    assert FITTED.probability(signals) == 1.0
    del signals[name]
    assert FITTED.probability(signals) == 1.0
    table = {key: np.array([other, math.nan if key == name else other]) for key in FITTED.signals}
    assert FITTED.probabilities(table)[1] == 1.0
    assert 0 < FITTED.probabilities(table)[0] < 1


def test_one_frame_and_many_are_scored_alike_and_words_carry_it():
    table, _, _, _ = frames(50, novelty_weight=1.0)
    again = Score.from_dict(FITTED.to_dict())
    assert again == FITTED
    single = [again.probability({name: table[name][i] for name in table}) for i in range(50)]
    assert FITTED.probabilities(table) == pytest.approx(single)


def test_infinite_novelty_is_cut_and_not_lost():
    assert FITTED.probability({SPREAD: 0.1, "novelty": math.inf}) > FITTED.probability(
        {SPREAD: 0.1, "novelty": 1.0}
    )


def test_a_weight_of_two_is_the_frame_twice():
    table, bad, weights, _ = frames(200, novelty_weight=1.0)
    twice = {name: np.concatenate([column, column[:50]]) for name, column in table.items()}
    weights[:50] = 2.0
    one = fit_score(table, bad, weights)
    two = fit_score(twice, np.concatenate([bad, bad[:50]]), np.ones(250))
    # the prior sees 200 frames in one case and 250 in the other
    assert one.probabilities(table) == pytest.approx(two.probabilities(table), abs=2e-2)
    plain = fit_score(table, bad, np.ones(200))
    assert plain.probabilities(table) != pytest.approx(two.probabilities(table), abs=2e-2)


def test_a_signal_that_points_the_wrong_way_gets_no_weight():
    table, bad, weights, groups = frames(600, novelty_weight=-2.0)
    score = fit_score(table, bad, weights)
    assert score.weights[1] == 0
    assert score.weights[0] > 0
    inverted = {SPREAD: 1 / table[SPREAD]}
    assert chosen(inverted, bad, weights, groups).signals == (SPREAD,)


def test_a_signal_that_helps_is_used_and_its_gain_is_kept():
    score = chosen(*frames(800, novelty_weight=2.0))
    assert score.signals == (SPREAD, "novelty")
    ((name, _, low, _),) = score.gains
    assert name == "novelty"
    assert low > 0
    table, *rest = frames(800, novelty_weight=2.0)
    table["useless"] = np.random.default_rng(7).lognormal(size=800)
    score = chosen(table, *rest)
    assert score.signals == (SPREAD, "novelty")
    assert [name for name, *_ in score.gains] == ["novelty", "useless"]


def test_signals_that_do_not_help_are_dropped():
    kept = 0
    for seed in range(20):
        table, bad, weights, groups = frames(300, novelty_weight=0.0, seed=seed)
        kept += len(chosen(table, bad, weights, groups, seed=seed).signals) > 1
    assert kept <= 2  # the interval is 95 %, one-sided 97.5 %


def test_too_few_frames_or_trajectories_leave_spread_alone():
    table, bad, weights, groups = frames(800, novelty_weight=2.0)
    assert chosen(table, bad, weights, groups % 3).signals == (SPREAD,)
    few = np.flatnonzero(bad)[:19].tolist() + np.flatnonzero(~bad)[:400].tolist()
    small = {name: column[few] for name, column in table.items()}
    assert chosen(small, bad[few], weights[few], groups[few]).signals == (SPREAD,)


def test_with_frames_of_one_kind_the_spread_stands_for_itself():
    table, _, weights, groups = frames(50, novelty_weight=1.0)
    for bad in (np.zeros(50, bool), np.ones(50, bool)):
        score = chosen(table, bad, weights, groups)
        assert score == spread_alone(0.2)
        with pytest.raises(InputError, match="good frames and bad"):
            fit_score(table, bad, weights)
    assert spread_alone(0.2).probability({SPREAD: 0.2}) == pytest.approx(0.5)


def test_a_nan_is_not_fitted_on():
    table, bad, weights, _ = frames(50, novelty_weight=1.0)
    table["novelty"][3] = math.nan
    with pytest.raises(InputError, match="NaN"):
        fit_score(table, bad, weights)


# comparison of scores


def test_the_area_by_hand():
    bad = np.array([False, False, True, True])
    assert area_under_curve(np.array([1.0, 2, 3, 4]), bad) == 1
    assert area_under_curve(np.array([1.0, 3, 2, 4]), bad) == 0.75
    assert area_under_curve(np.ones(4), bad) == 0.5
    # the good frame above a bad one stands for three
    assert area_under_curve(np.array([1.0, 3, 2, 4]), bad, np.array([1.0, 3, 1, 1])) == 0.625
    assert math.isnan(area_under_curve(np.ones(4), np.ones(4, bool)))
    with pytest.raises(InputError, match="NaN"):
        area_under_curve(np.array([1.0, math.nan]), bad[1:3])


def test_the_area_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    values, bad, weights = (
        random.integers(0, 20, 300) / 1.0, random.random(300) < 0.2, random.uniform(1, 9, 300)
    )  # fmt: skip
    expected = roc_auc_score(bad, values, sample_weight=weights)
    assert area_under_curve(values, bad, weights) == pytest.approx(expected)


def test_bootstrap_intervals_of_groups_cover_as_they_say():
    # 30 groups of 5 alike: an interval that took frames for independent would be half as wide
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        values = np.repeat(random.normal(size=30), 5)
        _, low, high = bootstrap_interval(
            lambda places, values=values: float(values[places].mean()),
            np.repeat(np.arange(30), 5), random, draws=200,
        )  # fmt: skip
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.985


def test_a_statistic_that_is_mostly_not_there_has_no_bounds():
    groups = np.arange(6)
    estimate, low, high = bootstrap_interval(
        lambda places: 1.0 if len(places) == len(set(places.tolist())) else math.nan,
        groups, np.random.default_rng(0),
    )  # fmt: skip
    assert (estimate, low, high) == (1.0, -math.inf, math.inf)


FITTED = fit_score(*frames(400, novelty_weight=1.0)[:3])
