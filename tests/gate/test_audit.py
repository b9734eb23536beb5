"""What audits say about failures nobody flagged, and how often a regime is due."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hybrid_calc.gate.audit import AuditLog
from hybrid_calc.gate.calibration import missed_failures
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.settings import GateSettings
from tests.gate.scenes import CALM, REACTIVE, observe


def log(good=0, bad=0, *, probability=0.03, flagged=0, unflagged=None):
    result = AuditLog()
    for number in range(good + bad):
        result.add(CALM, probability, bad=number < bad)
    for _ in range(flagged):
        result.count(flagged=True)
    for _ in range(good + bad if unflagged is None else unflagged):
        result.count(flagged=False)
    return result


def test_two_bad_of_244_audits_are_said_as_the_summary_says_it():
    # Wilson of 2 in 244: 0.23 to 2.94 %
    assert str(log(242, 2).missed()) == (
        "missed failures: 0.8 % (0.2 to 2.9 %, 95 %), from 244 audits"
    )


def test_flagged_geometries_cannot_be_missed():
    missed = log(18, 2, flagged=20).missed()
    assert missed.unflagged_share == 0.5
    assert missed.estimate == pytest.approx(0.05)
    whole = log(18, 2).missed()
    assert (missed.low, missed.high) == pytest.approx((whole.low / 2, whole.high / 2))


def test_audits_of_different_probability_weigh_one_over_it():
    both = log(9, 1, probability=0.2)
    for number in range(10):
        both.add(CALM, 0.05, bad=number < 2)
    # (1 / 0.2 + 2 / 0.05) / (10 / 0.2 + 10 / 0.05) = 45 / 250
    assert both.missed().estimate == pytest.approx(0.18)
    bad = np.array([True] + [False] * 9 + [True] * 2 + [False] * 8)
    p = np.array([0.2] * 10 + [0.05] * 10)
    assert (both.missed().low, both.missed().high) == missed_failures(bad, p, 1.0)[1:]


def test_without_audits_nothing_is_known():
    missed = log(unflagged=50).missed()
    assert np.isnan(missed.estimate)
    assert (missed.low, missed.high) == (0.0, 1.0)
    assert str(missed) == "missed failures: unknown, no audits yet"


def test_a_restored_log_says_the_same():
    first = log(30, 1, flagged=7, unflagged=40)
    first.add(REACTIVE, 0.2, bad=True)
    again = AuditLog()
    again.restore(json.loads(json.dumps(first.state())))
    assert again == first
    assert again.missed() == first.missed()


# how often


def audit(judge, *, bad, regime=CALM):
    while True:
        scene = observe(regime=regime)
        decision = judge.decide(scene)
        if decision.is_audit:
            judge.learn(decision, scene, 9.0 if bad else 0.01, 0.0)
            return decision.audit_probability


def test_a_new_regime_is_audited_at_a_fifth_until_ten_audits_found_nothing():
    judge = Gate(GateSettings(policies=frozenset({"audit"})))
    assert [audit(judge, bad=False) for _ in range(12)] == [0.2] * 10 + [0.03] * 2
    assert judge.audit_probability(REACTIVE) == 0.2


def test_a_bad_audit_makes_a_regime_new_again():
    judge = Gate(GateSettings(policies=frozenset({"audit"}), audits_until_settled=3))
    found = [audit(judge, bad=bad) for bad in (False, False, False, True, False)]
    assert found == [0.2, 0.2, 0.2, 0.03, 0.2]


def test_a_validated_regime_is_not_new():
    assert Gate().audit_probability(CALM, validated=True) == 0.03


def test_a_user_who_audits_more_audits_as_much_where_it_is_new():
    assert Gate(GateSettings(audit_probability=0.5)).audit_probability(CALM) == 0.5


def test_audits_never_stop():
    judge = Gate(GateSettings(policies=frozenset({"audit"})))
    for _ in range(40):
        audit(judge, bad=False)
    assert judge.audit_probability(CALM) == 0.03
    with pytest.raises(ValueError, match="audit_probability"):
        GateSettings(audit_probability=0.0)


def test_the_lower_bound_leaves_out_the_audit_that_ends_a_calibration():
    found, ended = AuditLog(), AuditLog()
    for number in range(4):
        found.add(CALM, 0.03, bad=number == 1)
        ended.add(CALM, 0.03, bad=number == 1, ends_calibration=number == 1)
    for _ in range(100):
        found.count(flagged=False)
        ended.count(flagged=False)
    plain, careful = found.missed(), ended.missed()
    assert (careful.audits, careful.bad, careful.estimate) == (4, 1, 0.25)
    assert careful.high == plain.high
    assert 0.0 == careful.low < plain.low  # none of three
    again = AuditLog()
    again.restore(json.loads(json.dumps(ended.state())))
    assert again.missed() == careful
