"""Hysteresis, the price of a call and doubts of a calibration, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc import FlagLimits, ToyCommittee
from hybrid_calc.answer.trajectory import Trajectory
from hybrid_calc.flags.monitor import Monitor
from hybrid_calc.gate.control import Draws, Streak, affordable, contradicts


def held(*relative, streak=None):
    streak = streak or Streak()
    return [streak.holds(one, share=0.7, steps=5) for one in relative]


def test_nothing_is_held_before_the_committee_objected():
    assert held(0.9, 0.1, 0.99) == [False, False, False]


def test_four_calm_steps_are_held_and_the_fifth_is_the_committees():
    assert held(1.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6) == [False, *[True] * 4, False, False]


def test_a_step_between_share_and_threshold_starts_the_count_again_where_no_label_is_good():
    calm = [0.6] * 3
    assert held(1.2, *calm, 0.7, *calm, 0.6, 0.6) == [False, *[True] * 8, False]


def test_a_step_below_the_threshold_that_the_reference_finds_right_is_calm():
    streak = Streak()
    seen = []
    for relative in (1.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        seen.append(streak.holds(relative, share=0.7, steps=5))
        streak.settle(True)
    assert seen == [False, *[True] * 4, False, False]


def test_one_that_it_finds_wrong_is_not():
    streak = Streak()
    for relative, good in [(1.2, True), (0.9, True), (0.9, True), (0.9, False)]:
        streak.holds(relative, share=0.7, steps=5)
        streak.settle(good)
    assert streak.calm == 0
    assert [streak.holds(0.5, share=0.7, steps=5) for _ in range(5)] == [*[True] * 4, False]


def test_a_new_objection_starts_the_count_again():
    assert held(1.2, 0.1, 0.1, 0.1, 3.0, 0.1, 0.1, 0.1, 0.1, 0.1)[5:] == [*[True] * 4, False]


def test_a_step_that_waits_for_its_label_still_waits_after_a_restart():
    # Three calm steps, then one just below the threshold whose label never came: from the
    # next one on it takes four more calm ones.  Forgotten, it would take one.
    before, after = (Trajectory(monitor=Monitor(FlagLimits(), ToyCommittee().info)) for _ in "ab")
    held(1.2, 0.6, 0.6, 0.6, 0.9, streak=before.streak)
    after.restore(json.loads(json.dumps(before.state())))
    assert held(*[0.6] * 5, streak=before.streak) == [*[True] * 4, False]
    assert held(*[0.6] * 5, streak=after.streak) == [*[True] * 4, False]


def test_a_state_that_kept_the_calm_steps_alone_is_read():
    path = Trajectory(monitor=Monitor(FlagLimits(), ToyCommittee().info))
    path.restore(path.state() | {"streak": 3})
    assert path.streak == Streak(calm=3)


def test_a_score_that_is_no_number_is_an_objection():
    assert held(math.nan, 0.1) == [False, True]


def test_one_calm_step_is_enough_where_the_user_says_so():
    streak = Streak()
    assert [streak.holds(one, share=0.7, steps=1) for one in (1.0, 0.1, 0.1)] == [False] * 3


SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 2.0, 4.0]


@pytest.mark.parametrize(
    ("share", "price"),
    [
        (1.0, 1.0),  # every frame can be paid for
        (0.5, 1.0),  # half of them: from 0.6 on, but no committee is doubted below 1
        (0.2, 2.0),  # two of ten: 2 and 4
        (0.1, 4.0),  # one of ten
        (0.0, math.inf),  # none
    ],
)
def test_the_price_is_the_score_that_the_rest_can_pay_for(share, price):
    assert affordable(SCORES, share) == price


def test_without_scores_there_is_no_price():
    assert affordable([], 0.1) == 1.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_no_more_frames_than_the_share_cost_the_price_or_more(scores, share):
    price = affordable(scores, share)
    dearer = sum(score > price for score in scores)
    assert price >= 1
    assert dearer <= share * len(scores)


def test_no_bad_audit_contradicts_nothing():
    assert not contradicts(0, 0, 0.03, 0.1)


def test_one_bad_audit_contradicts_a_calibration_that_had_caught_nothing():
    # 1/9 of a missed frame expected, found with 0.03: 0.0033 < 0.05
    assert contradicts(0, 1, 0.03, 0.1)


def test_one_bad_audit_beside_twenty_caught_frames_is_what_was_promised():
    # 20/9 missed frames expected, 0.067 found: at least one in 6.4 % of such runs
    assert not contradicts(20, 1, 0.03, 0.1)
    # at least two in 0.21 %
    assert contradicts(20, 2, 0.03, 0.1)


@given(st.integers(0, 200), st.integers(1, 5), st.floats(0.01, 0.3))
def test_more_caught_frames_never_make_a_calibration_more_doubtful(caught, found, missed):
    assert contradicts(caught, found, 0.03, missed) >= contradicts(caught + 50, found, 0.03, missed)


@pytest.mark.parametrize("taken", [0, 1, 127, 128, 300])
def test_draws_are_those_of_the_seed_and_go_on_where_they_were(taken):
    expected = np.random.default_rng(7).random(taken + 200)
    draws = Draws(7)
    assert [next(draws) for _ in range(taken)] == expected[:taken].tolist()
    resumed = Draws(0)
    resumed.restore(json.loads(json.dumps(draws.state())))
    for one in (draws, resumed):
        assert [next(one) for _ in range(200)] == expected[taken:].tolist()
