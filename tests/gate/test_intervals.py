"""The interval of a share, against published values and its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.gate.intervals import wilson_interval


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_newcombes(hits, trials, low, high):
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)


def test_no_audits_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 2000))
def test_the_interval_of_none_begins_at_nothing_and_that_of_all_ends_at_all(trials):
    # exactly: a bound of 1e-17 would exclude a share of 0
    assert wilson_interval(0, trials)[0] == 0.0
    assert wilson_interval(trials, trials)[1] == 1.0


def test_149_audits_with_none_missed_bound_the_share_at_2_5_percent():
    # z^2 / (n + z^2) = 3.8415 / 152.8415
    assert wilson_interval(0, 149)[1] == pytest.approx(0.02513, abs=1e-5)


def test_more_confidence_is_a_wider_interval():
    narrow, wide = wilson_interval(3, 50, 0.5), wilson_interval(3, 50, 0.99)
    assert wide[0] < narrow[0] < 0.06 < narrow[1] < wide[1]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_mirrors(counts):
    hits, trials = counts
    low, high = wilson_interval(hits, trials)
    rounding = 1e-15
    assert 0 <= low <= hits / trials + rounding
    assert hits / trials - rounding <= high <= 1
    assert wilson_interval(trials - hits, trials) == pytest.approx((1 - high, 1 - low))
