"""Trust gained, lost and reset, and the factor between spread and error, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.gate.evidence import BLOCK, REMEMBERED, Evidence, Validated, estimated_factor
from tests.gate.scenes import CALM, REACTIVE

EVERYONE = slice(None)
FACTOR = {"start": 3.0, "labels": 5, "quantile": 0.9, "bounds": (1.0, 20.0)}


def frame(place, *, good=True, spread=0.1, error=0.1, atoms=2):
    return Validated(
        fingerprint=np.full((atoms, 1), float(place)), spread=spread, error=error, good=good
    )


def evidence(*frames, regime=CALM):
    result = Evidence()
    for one in frames:
        result.add(regime, one)
    return result


def neighbours(known, place=0.0, *, regime=CALM, atoms=EVERYONE, enough=1000):
    return known.trust(regime, np.full((2, 1), place), atoms, 1.5, enough).neighbours


def test_nothing_is_trusted_at_the_start():
    trust = Evidence().trust(CALM, np.zeros((2, 1)), EVERYONE, 1.5, 3)
    assert (trust.neighbours, trust.nearest, trust.worst_error) == (0, float("inf"), 0.0)


def test_good_frames_nearby_are_counted():
    known = evidence(frame(0.1), frame(1.5), frame(1.6), frame(-1.0, error=0.15))
    trust = known.trust(CALM, np.zeros((2, 1)), EVERYONE, 1.5, 1000)
    assert trust.neighbours == 3
    assert trust.nearest == pytest.approx(0.1)
    assert trust.worst_error == 0.15


def test_only_the_same_regime_counts():
    assert neighbours(evidence(frame(0), frame(0)), regime=REACTIVE) == 0


def test_only_the_atoms_that_matter_must_be_near():
    known = Evidence()
    known.add(
        CALM, Validated(fingerprint=np.array([[0.0], [9.0]]), spread=0.1, error=0.1, good=True)
    )
    assert neighbours(known) == 0
    assert neighbours(known, atoms=np.array([0])) == 1
    assert neighbours(known, atoms=np.array([1])) == 0


def test_all_atoms_must_be_near_in_the_same_frame():
    known = Evidence()
    for fingerprint in ([[0.0], [9.0]], [[9.0], [0.0]]):
        known.add(
            CALM,
            Validated(fingerprint=np.array(fingerprint), spread=0.1, error=0.1, good=True),
        )
    assert neighbours(known, atoms=np.array([0, 1])) == 0


def test_a_bad_frame_nearby_starts_the_count_again():
    assert neighbours(evidence(frame(0), frame(0), frame(0, good=False))) == 0
    assert neighbours(evidence(frame(0), frame(0, good=False), frame(0), frame(0))) == 2


def test_a_bad_frame_far_away_changes_nothing_here():
    assert neighbours(evidence(frame(0), frame(9, good=False), frame(0))) == 2


def test_distrust_forgets_every_good_frame_of_the_regime_and_no_other():
    known = evidence(frame(0), frame(0), frame(0))
    for _ in range(3):
        known.add(REACTIVE, frame(0))
    known.distrust(CALM)
    assert neighbours(known) == 0
    assert neighbours(known, regime=REACTIVE) == 3
    known.add(CALM, frame(0))
    assert neighbours(known) == 1


def test_distrust_keeps_what_was_learned_about_the_factor():
    known = evidence(*[frame(0, spread=0.1, error=0.4) for _ in range(5)])
    known.distrust(CALM)
    assert known.factor(CALM, 0.0, **FACTOR) == pytest.approx(4.0)


def test_distrust_of_a_regime_never_seen_does_nothing():
    known = Evidence()
    known.distrust(CALM)
    assert neighbours(known) == 0


def test_another_molecule_of_the_same_elements_starts_anew():
    known = evidence(frame(0), frame(0))
    assert known.trust(CALM, np.zeros((5, 1)), EVERYONE, 1.5, 3).neighbours == 0
    known.add(CALM, frame(0, atoms=5))
    assert neighbours(known) == 0
    assert known.trust(CALM, np.zeros((5, 1)), EVERYONE, 1.5, 3).neighbours == 1


def test_the_oldest_frames_are_forgotten_first():
    known = evidence(*[frame(0) for _ in range(REMEMBERED)])
    assert neighbours(known) == REMEMBERED
    for _ in range(5):
        known.add(CALM, frame(9))
    assert neighbours(known) == REMEMBERED - 5


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 9.0]), st.booleans()), max_size=3 * BLOCK),
    st.integers(1, 6),
)
def test_looking_at_the_newest_first_finds_what_counting_in_order_finds(frames, enough):
    count = 0
    for place, good in frames:
        if place == 0.0:
            count = count + 1 if good else 0
    found = neighbours(
        evidence(*[frame(place, good=good) for place, good in frames]), enough=enough
    )
    assert (found >= enough) is (count >= enough)
    assert found == count or found >= enough


@given(st.lists(st.tuples(st.floats(-3, 3), st.booleans(), st.booleans()), max_size=30))
def test_restored_evidence_is_the_same_evidence(frames):
    known = Evidence()
    for number, (place, good, reactive) in enumerate(frames):
        known.add(REACTIVE if reactive else CALM, frame(place, good=good, error=0.1 * number))
    again = Evidence()
    again.add(CALM, frame(0, atoms=4))  # is forgotten
    again.restore(json.loads(json.dumps(known.state())))
    for regime in (CALM, REACTIVE):
        for place in (-1.0, 0.0, 2.0):
            here = np.full((2, 1), place)
            assert again.trust(regime, here, EVERYONE, 1.5, 3) == known.trust(
                regime, here, EVERYONE, 1.5, 3
            )
        assert again.factor(regime, 0.0, **FACTOR) == known.factor(regime, 0.0, **FACTOR)


def factor(*ratios, quantile=0.9, labels=5, weights=None):
    given = np.ones(len(ratios)) if weights is None else np.array(weights, dtype=float)
    return estimated_factor(
        np.array(ratios, dtype=float),
        given,
        start=3.0,
        labels=labels,
        quantile=quantile,
        bounds=(1.0, 20.0),
    )


def test_the_factor_is_the_start_until_five_labels_are_there():
    assert factor() == 3.0
    assert factor(9, 9, 9, 9) == 3.0
    assert factor(9, 9, 9, 9, 9) == 9.0


def test_the_factor_is_the_quantile_that_this_share_does_not_exceed():
    assert factor(*range(1, 11)) == 9.0  # nine of ten are at most 9
    assert factor(2, 8, 4, 6, 5) == 8.0  # 0.9 of five needs all five
    assert factor(2, 8, 4, 6, 5, quantile=0.6) == 5.0


def test_the_factor_stays_within_its_bounds():
    assert factor(0.1, 0.1, 0.1, 0.1, 0.1) == 1.0
    assert factor(99, 99, 99, 99, 99) == 20.0


def test_a_spread_of_nothing_is_a_large_ratio_not_an_error():
    known = evidence(*[frame(0, spread=0.0, error=0.1) for _ in range(5)])
    assert known.factor(CALM, 0.0, **FACTOR) == 20.0


def test_the_factor_follows_every_new_label_of_its_regime():
    known = evidence(*[frame(0, spread=0.1, error=0.2) for _ in range(4)])
    assert known.factor(CALM, 0.0, **FACTOR) == 3.0
    known.add(CALM, frame(0, spread=0.1, error=0.5))
    assert known.factor(CALM, 0.0, **FACTOR) == pytest.approx(5.0)
    assert known.factor(REACTIVE, 0.0, **FACTOR) == 3.0


def test_the_factor_holds_a_quarter_beyond_the_largest_labelled_spread_and_no_further():
    spreads = (0.2, 0.1, 0.1, 0.1, 0.1, 0.1)
    known = evidence(*(frame(i, spread=spread, error=0.1) for i, spread in enumerate(spreads)))
    assert known.factor(CALM, 0.2 * 1.24, **FACTOR) == pytest.approx(1.0)  # 0.1 / 0.1
    assert known.factor(CALM, 0.2 * 1.26, **FACTOR) == 3.0
    assert known.factor(CALM, math.inf, **FACTOR) == 3.0
