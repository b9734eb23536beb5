"""What audits say about failures nobody flagged, and how often a regime is due."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import gammainc

from hybrid_calc.gate.audit import AuditLog
from hybrid_calc.gate.calibration import missed_failures
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.intervals import wilson_interval
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
    # Wilson of 2 in 244: 0.23 to 2.94 %; of 244 / 0.97, as 3 % are known: 0.23 to 2.89 %
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
    # w = 5 and 20, w^2 (1 - p) = 20 and 380: of all 4000 / 250 = 16, and w^2 / w = 17.  Of bad
    # ones, with 3.8415 frames of 17: (780 + 65.305 x 16) / (45 + 65.305) = 16.544; of good ones
    # (3220 + 65.305 x 16) / (205 + 65.305) = 15.778; 250 / (0.82 x 16.544 + 0.18 x 15.778)
    wanted = wilson_interval(0.18 * 15.238, 15.238)
    assert (both.missed().low, both.missed().high) == pytest.approx(wanted, abs=1e-4)


def test_without_audits_nothing_is_known():
    missed = log(unflagged=50).missed()
    assert np.isnan(missed.estimate)
    assert (missed.low, missed.high) == (0.0, 1.0)
    assert str(missed) == "missed failures: unknown, no audits yet"


def test_steps_that_no_audit_could_be_paid_for_are_counted_apart_and_said():
    log_ = AuditLog()
    for _ in range(3):
        log_.count(flagged=False, sampled=False)
    missed = log_.missed()
    assert str(missed) == (
        "missed failures: unknown, no audits yet; not of 3 steps with no budget for audits"
    )
    # The summary holds these: JSON knows no NaN.
    json.dumps([missed.low, missed.high, missed.unflagged_share], allow_nan=False)
    assert (missed.low, missed.high, missed.unflagged_share) == (0.0, 1.0, 1.0)
    again = AuditLog()
    again.restore(json.loads(json.dumps(log_.state())))
    assert again.missed().unsampled == 3


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


def test_the_lower_bound_is_that_of_half_a_bad_frame_fewer_where_one_ended_the_sampling():
    found, ended = log(28, 2, unflagged=1000), log(28, 2, unflagged=1000)
    ended.end_sampling()
    plain, careful = found.missed(), ended.missed()
    assert (careful.audits, careful.bad, careful.estimate) == (30, 2, pytest.approx(2 / 30))
    assert careful.high == plain.high
    # 1.5 bad ones of 29.5, over 0.97 as 3 % are known
    assert careful.low == pytest.approx(wilson_interval(1.546392, 30.412371)[0], abs=1e-6)
    assert careful.low < 0.7 * plain.low
    light = log(0, 1, probability=0.2)
    for _ in range(3):
        light.add(CALM, 0.03, bad=False)
    light.end_sampling()
    assert light.missed().low == 0.0  # 5 of 105: less than half of one of some three
    again = AuditLog()
    again.restore(json.loads(json.dumps(ended.state())))
    assert again.missed() == careful


@pytest.mark.parametrize("bad", [1, 2, 3, 10])
def test_that_bound_is_seldom_too_high_where_sampling_goes_on_until_so_many_are_found(bad):
    # frames until the k-th of a Poisson process, times its rate: chi^2 with 2 k degrees, halved
    judged = log(10**6 - bad, bad, probability=1e-3)
    plain = gammainc(bad, judged.missed().low * 10**6)
    judged.end_sampling()
    assert 0.025 < gammainc(bad, judged.missed().low * 10**6) < 0.052
    assert plain > 0.05


def test_a_bad_audit_ends_the_sampling_where_the_regime_is_audited_more_from_then_on():
    judge = Gate(GateSettings(policies=frozenset({"audit"}), audits_until_settled=3))
    audit(judge, bad=True)  # at 0.2, and at 0.2 from then on
    assert not judge.audits.ended
    for _ in range(3):
        audit(judge, bad=False)
    audit(judge, bad=True)  # at 0.03, and at 0.2 from then on
    assert judge.audits.ended


def test_a_bad_audit_ends_no_sampling_that_goes_on_as_it_was():
    settings = {"policies": frozenset({"audit"}), "audit_probability": 0.5}
    judge = Gate(GateSettings(**settings))
    for bad in (False, True, True, False):
        audit(judge, bad=bad)
    assert not judge.audits.ended


@pytest.mark.parametrize("react", [False, True])
def test_the_interval_holds_what_was_missed_in_nineteen_of_twenty_runs(react):
    """Runs of any length; after a bad audit nothing is missed any more, or all goes on."""
    random = np.random.default_rng(int(react))
    held = []
    while len(held) < 1500:
        steps = int(np.exp(random.uniform(np.log(300), np.log(20000))))
        bad = random.random(steps) < np.exp(random.uniform(np.log(0.003), np.log(0.1)))
        audited = random.random(steps) < 0.03
        found = np.flatnonzero(bad & audited)
        if react and len(found) > 2:  # the third is what it takes
            bad[found[2] + 1 :] = False
        if not audited.any():
            continue
        judged = log(int((audited & ~bad).sum()), int((audited & bad).sum()), unflagged=steps)
        if react and len(found) > 2:
            judged.end_sampling()
        missed = judged.missed()
        held.append(missed.low <= bad.mean() <= missed.high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(
    ("audits", "bad", "low", "high"), [(10, 0, 0, 0.75), (10, 1, 0.025, 0.775)]
)
def test_steps_that_chance_never_chose_are_not_known_though_every_audit_was_sure(
    audits, bad, low, high
):
    log = AuditLog()
    for number in range(40):
        log.count(flagged=False)
        if number < audits:
            log.add(CALM, 1.0, bad=number < bad)
    missed = log.missed()
    assert (missed.low, missed.high) == pytest.approx((low, high))
    assert missed.estimate == pytest.approx(bad / audits)


def test_where_every_step_is_audited_all_is_known():
    log = AuditLog()
    for number in range(4):
        log.count(flagged=False)
        log.add(CALM, 1.0, bad=number == 0)
    missed = log.missed()
    assert (missed.estimate, missed.low, missed.high) == (0.25, 0.25, 0.25)
