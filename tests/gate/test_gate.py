"""Every decision by hand: who answers, all the reasons, what is paid and what is not."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.errors import BudgetExhausted, InputError, PredictionFailed
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.policy import Source
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.gate.tolerance import NOTICE_AFTER, ToleranceWarning
from tests.gate.scenes import (
    ALL,
    ATOMS,
    BREAKING,
    CALM,
    CLASH,
    REACTIVE,
    STRANGER,
    WARM,
    flag,
    observe,
)

RADIUS = 1.5
"""Fingerprint distance that is nearby, here."""


def gate(*policies, **settings):
    settings = {"trust_radius": RADIUS, "audit_probability_new": 0.01, **settings}
    return Gate(GateSettings(policies=frozenset(policies), **settings))


def decide(judge, spread=0.01, place=0.0, *flags, regime=CALM, wanted=""):
    return judge.decide(observe(spread, place, *flags, regime=regime), wanted=wanted)


def teach(judge, times=1, *, place=0.0, force_error=0.05, energy_error=0.0, regime=CALM):
    """Let a gate with the policy ``unseen`` ask and tell it how wrong the committee was."""
    for _ in range(times):
        scene = observe(0.01, place, regime=regime)
        decision = judge.decide(scene, wanted="to teach")
        good = judge.learn(decision, scene, force_error, energy_error)
    return good


# who answers


def test_without_policies_the_committee_answers():
    decision = decide(gate(), 9.0, 0.0, CLASH, BREAKING)
    assert decision.source is Source.COMMITTEE
    assert decision.reasons == decision.unpaid == decision.policies == ()


@pytest.mark.parametrize(("spread", "asks"), [(0.066, False), (0.067, True)])
def test_uncertain_asks_when_three_times_the_spread_exceeds_the_tolerance(spread, asks):
    decision = decide(gate("uncertain", force_tolerance_ev_per_ang=0.2), spread)
    assert decision.policies == (("uncertain",) if asks else ())
    assert decision.source is (Source.REFERENCE if asks else Source.COMMITTEE)
    assert decision.spread == pytest.approx(spread)
    assert decision.score == pytest.approx(3 * spread)
    assert decision.threshold == 0.2


def test_uncertain_says_the_figures():
    (reason,) = decide(gate("uncertain"), 0.1).reasons
    assert reason.detail == "3 x spread 0.1 = 0.3 eV/A, tolerance 0.2"


def test_trust_does_not_silence_a_spread():
    judge = gate("uncertain", "unseen")
    teach(judge, 4)
    assert decide(judge, 1.0).policies == ("uncertain",)


@pytest.mark.parametrize("up", [BREAKING, CLASH])
def test_contradiction_asks_for_hard_and_regime_flags(up):
    decision = decide(gate("contradiction"), 0.01, 0.0, up)
    assert [(reason.policy, reason.detail) for reason in decision.reasons] == [
        ("contradiction", str(up))
    ]


def test_a_soft_flag_does_not_ask():
    assert decide(gate("contradiction"), 0.01, 0.0, WARM).source is Source.COMMITTEE


def test_unseen_asks_until_three_good_frames_nearby():
    judge = gate("unseen")
    for count in range(3):
        decision = decide(judge)
        assert decision.policies == ("unseen",)
        assert f"{count} of 3 validated frames nearby" in decision.reasons[0].detail
        teach(judge)
    assert decide(judge).source is Source.COMMITTEE
    assert decide(judge, place=9.0).policies == ("unseen",)
    assert decide(judge, regime=REACTIVE).policies == ("unseen",)


def test_three_good_frames_with_the_bond_broken_silence_the_flag():
    judge = gate("contradiction", "unseen")
    broken = flag(atoms=(0, 1))
    for _ in range(3):
        decision = decide(judge, 0.01, 0.0, broken, regime=REACTIVE)
        assert decision.policies == ("contradiction", "unseen")
        judge.learn(decision, observe(0.01, 0.0, broken, regime=REACTIVE), 0.1, 0.0)
    assert decide(judge, 0.01, 0.0, broken, regime=REACTIVE).source is Source.COMMITTEE


def test_evidence_must_cover_the_flagged_atoms_only():
    judge = gate("contradiction")
    teach(judge, 3, regime=REACTIVE)
    elsewhere = observe(0.01, 0.0, flag(atoms=(0, 1)), regime=REACTIVE)
    elsewhere.fingerprint[2] = 9.0  # the third atom is in no known place
    assert judge.decide(elsewhere).reasons == ()
    elsewhere.fingerprint[1] = 9.0
    assert judge.decide(elsewhere).policies == ("contradiction",)


@pytest.mark.parametrize("error", [{"force_error": 0.21}, {"energy_error": -0.09}])
def test_a_bad_answer_nearby_takes_trust_away(error):
    judge = gate("unseen")
    assert teach(judge, 5) is True
    assert decide(judge).source is Source.COMMITTEE
    assert teach(judge, 1, **error) is False
    assert decide(judge).policies == ("unseen",)
    teach(judge, 2)
    assert decide(judge).policies == ("unseen",)
    teach(judge)
    assert decide(judge).source is Source.COMMITTEE


def test_without_trust_an_unvalidated_regime_always_asks():
    judge = gate("unseen", trust=False)
    teach(judge, 20)
    assert decide(judge).policies == ("unseen",)


def test_outside_the_domain_asks_whatever_the_policies():
    judge = gate()
    teach(judge, 5)
    decision = decide(judge, None, 0.0, STRANGER)
    assert decision.policies == ("outside",)
    assert np.isnan(decision.spread)


def test_a_driver_may_want_a_label():
    decision = decide(gate(), wanted="climbing image")
    assert [(r.policy, r.detail) for r in decision.reasons] == [("acquisition", "climbing image")]
    assert decision.source is Source.REFERENCE


def test_every_reason_is_named():
    decision = decide(Gate(GateSettings(policies=ALL)), 0.5, 0.0, STRANGER, CLASH, wanted="w")
    assert decision.policies == ("acquisition", "outside", "uncertain", "unseen")
    both = decide(gate("contradiction"), 0.01, 0.0, CLASH, BREAKING)
    assert [reason.detail for reason in both.reasons] == [str(CLASH), str(BREAKING)]


def test_the_factor_of_five_labels_replaces_three():
    judge = gate("uncertain")
    for error in (0.05, 0.05, 0.05, 0.05, 0.1):
        teach(judge, 1, force_error=error)  # spread 0.01: ratios 5, 5, 5, 5, 10
    decision = decide(judge, 0.021)
    assert decision.factor == pytest.approx(10.0)
    assert decision.policies == ("uncertain",)
    assert decide(judge, 0.021, regime=REACTIVE).factor == 3.0


# tolerances


@pytest.mark.parametrize(
    ("force", "energy", "good"),
    [
        (0.2, 0.0867, True),
        (0.2001, 0.0, False),
        (0.0, 0.0868, False),
        (0.0, -0.0868, False),
        (float("nan"), 0.0, False),
        (0.0, float("nan"), False),
        (float("inf"), 0.0, False),
    ],
)
def test_good_is_within_both_tolerances(force, energy, good):
    assert Gate().within_tolerance(force, energy) is good


# audits


def audited(judge, count, *, spread=0.01):
    return [number for number in range(count) if decide(judge, spread).is_audit]


def test_with_probability_one_every_calm_geometry_is_audited():
    decision = decide(gate("audit", audit_probability=1.0))
    assert decision.is_audit
    assert decision.source is Source.REFERENCE
    assert decision.audit_probability == 1.0
    assert decision.reasons[0].detail == "chosen with p = 1"


def test_without_the_policy_there_are_no_audits():
    judge = gate("uncertain")
    assert audited(judge, 300) == []
    assert decide(judge).audit_probability == 0


def test_audits_come_as_often_as_their_probability():
    # 2000 draws at 0.1: 200 +- 13.4; four standard deviations
    assert len(audited(gate("audit", audit_probability=0.1), 2000)) == pytest.approx(200, abs=54)


def test_audits_are_the_same_for_the_same_seed_and_others_for_another():
    def chosen(seed):
        return audited(gate("audit", audit_probability=0.2, seed=seed), 100)

    assert chosen(1) == chosen(1) != chosen(2)


def test_the_audits_stream_is_its_own():
    np.random.seed(0)  # noqa: NPY002 - the global stream is what must not matter
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = audited(gate("audit", audit_probability=0.2), 100)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert audited(gate("audit", audit_probability=0.2), 100) == first


def test_which_geometries_are_audited_does_not_depend_on_what_else_was_asked():
    plain = audited(gate("audit", audit_probability=0.2), 200)
    judge = gate("audit", "uncertain", audit_probability=0.2)
    mixed = [
        number for number in range(200) if decide(judge, 9.0 if number % 3 == 0 else 0.01).is_audit
    ]
    assert mixed == [number for number in plain if number % 3]


def test_a_geometry_that_is_asked_about_anyway_is_no_audit():
    decision = decide(gate("audit", "uncertain", audit_probability=1.0), 9.0)
    assert not decision.is_audit
    assert decision.policies == ("uncertain",)


def test_an_audit_that_finds_a_bad_frame_takes_all_trust_of_the_regime():
    judge = gate("unseen", "audit", audit_probability=1.0)
    teach(judge, 3, place=0.0)
    teach(judge, 3, place=9.0)
    decision = decide(judge)
    assert decision.is_audit
    assert judge.learn(decision, observe(), 0.5, 0.0) is False
    assert (judge.audits.audits, judge.audits.bad) == (1, 1)
    assert decide(judge, place=9.0).policies == ("unseen",)


def test_an_audit_that_finds_nothing_is_evidence_like_any_other():
    judge = gate("unseen", "audit", audit_probability=1.0)
    teach(judge, 3)
    decision = decide(judge)
    assert judge.learn(decision, observe(), 0.1, 0.0) is True
    assert (judge.audits.audits, judge.audits.bad) == (1, 0)
    assert decide(judge).trust.neighbours >= 3


def test_a_label_asked_for_a_reason_is_no_audit_when_it_is_bad():
    judge = gate("unseen")
    teach(judge, 1, force_error=9.0)
    assert (judge.audits.audits, judge.audits.bad) == (0, 0)


# budget


def spent(judge):
    judge.budget.spent = judge.budget.total
    return judge


def test_a_spent_budget_stops_by_default_and_says_why_and_what_to_do():
    judge = spent(gate("uncertain", budget=10))
    assert decide(judge, 0.01).source is Source.COMMITTEE
    with pytest.raises(BudgetExhausted) as caught:
        decide(judge, 1.0)
    for words in ("budget of 10", "3 x spread 1 = 3 eV/A", "larger gate.budget", "continue"):
        assert words in str(caught.value)


def test_continue_lets_the_committee_answer_and_names_what_was_not_paid():
    judge = spent(gate("uncertain", "unseen", budget=10, when_budget_ends="continue"))
    decision = decide(judge, 1.0)
    assert decision.source is Source.COMMITTEE
    assert decision.reasons == ()
    assert [reason.policy for reason in decision.unpaid] == ["uncertain", "unseen"]


@pytest.mark.parametrize("hard", [CLASH, STRANGER])
def test_a_hard_flag_without_budget_raises_whatever_was_chosen(hard):
    judge = spent(gate("contradiction", budget=10, when_budget_ends="continue"))
    with pytest.raises(BudgetExhausted) as caught:
        decide(judge, 0.01, 0.0, hard)
    assert "continue" not in str(caught.value)


def test_a_wanted_label_without_budget_raises_whatever_was_chosen():
    judge = spent(gate(budget=10, when_budget_ends="continue"))
    with pytest.raises(BudgetExhausted):
        decide(judge, wanted="confirm the minimum")


def test_the_reserve_is_for_audits():
    judge = gate("uncertain", "audit", budget=10, audit_probability=1.0)
    judge.budget.spent = 9
    with pytest.raises(BudgetExhausted):
        decide(judge, 1.0)
    assert decide(judge, 0.01).is_audit


def test_an_audit_that_is_due_and_cannot_be_paid_leaves_its_step_unverified():
    judge = spent(gate("audit", budget=10, audit_probability=1.0))
    decision = decide(judge)
    assert (decision.source, decision.reasons) == (Source.COMMITTEE, ())
    assert [reason.policy for reason in decision.unpaid] == ["audit"]
    assert "budget is spent" in decision.unpaid[0].detail
    assert decision.audit_probability == 0.0  # nothing can choose it any more


def test_steps_without_a_budget_for_audits_are_not_in_what_is_said_of_missed_failures():
    judge = gate("audit", budget=2, audit_probability=1.0, audit_reserve=0.0)
    for _ in range(2):
        decision = decide(judge)
        assert decision.is_audit
        judge.budget.spend(audit=True)
        judge.learn(decision, observe(0.01, 0.0, regime=CALM), 0.01, 0.0)
    before = judge.audits.missed()
    for _ in range(30):
        decide(judge)
    missed = judge.audits.missed()
    assert (missed.low, missed.high, missed.audits) == (before.low, before.high, 2)
    assert str(missed).endswith("from 2 audits; not of 30 steps with no budget for audits")
    again = gate("audit", budget=2)
    again.restore(json.loads(json.dumps(judge.state())))
    assert again.audits.missed() == missed


def test_deciding_spends_nothing():
    judge = gate("uncertain", budget=10)
    decide(judge, 1.0)
    assert judge.budget.spent == 0


def test_without_audits_the_whole_budget_is_for_the_other_reasons():
    judge = gate("uncertain", budget=1)
    assert decide(judge, 1.0).source is Source.REFERENCE


# a tolerance that is never met


def test_a_tolerance_never_met_is_spoken_of_once_with_the_figures():
    judge = gate("uncertain", force_tolerance_ev_per_ang=0.2)
    for number in range(NOTICE_AFTER - 1):
        decide(judge, 0.2 if number % 2 else 0.1)
    assert judge.notice is None
    with pytest.warns(
        ToleranceWarning, match=r"0\.2 eV/A is below.* was 0\.3 to 0\.6 eV/A"
    ) as seen:
        decide(judge, 0.2)
    assert len(seen) == 1
    assert "above 0.6" in judge.notice
    for _ in range(2 * NOTICE_AFTER):
        decide(judge, 0.2)  # a second warning would be an error here


def test_one_calm_geometry_within_the_tolerance_is_enough_to_be_silent():
    judge = gate("uncertain")
    for number in range(3 * NOTICE_AFTER):
        decide(judge, 0.01 if number == 7 else 0.3)
    assert judge.notice is None


def test_flagged_geometries_do_not_speak_about_the_tolerance():
    judge = gate("uncertain")
    for _ in range(3 * NOTICE_AFTER):
        decide(judge, 0.3, 0.0, BREAKING)
    assert judge.notice is None


# state


def story(judge, frames):
    """Show frames to a gate, teach it what it asks for, return the decisions as comparable data."""
    said = []
    for spread, place, error in frames:
        scene = observe(spread, place)
        decision = judge.decide(scene)
        if decision.source is Source.REFERENCE:
            judge.budget.spend(audit=decision.is_audit)
            judge.learn(decision, scene, error, 0.0)
        said.append((decision.reasons, decision.factor, decision.trust, judge.budget.spent))
    return said


frames_of_a_run = st.lists(
    st.tuples(st.floats(0, 0.2), st.sampled_from([0.0, 1.0, 4.0]), st.floats(0, 0.4)),
    min_size=2,
    max_size=40,
)


@given(frames_of_a_run, st.integers(0, 40), st.integers(0, 3))
def test_a_restored_gate_decides_what_the_first_would_have_decided(frames, cut, seed):
    settings = {"audit_probability": 0.3, "seed": seed, "budget": 1000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ToleranceWarning)  # the story may be one of a bad committee
        want = story(gate(*ALL, **settings), frames)
        first, second = gate(*ALL, **settings), gate(*ALL, **settings)
        story(first, frames[:cut])
        second.restore(json.loads(json.dumps(first.state())))
        assert story(second, frames[cut:]) == want[cut:]


def test_a_restored_gate_keeps_its_counts_and_its_notice():
    judge = gate("audit", "uncertain", audit_probability=1.0, budget=50, factor_labels=99)
    for _ in range(NOTICE_AFTER - 1):
        decide(judge, 0.3)
    with pytest.warns(ToleranceWarning):
        decide(judge, 0.3)
    for _ in range(3):
        decision = decide(judge)
        judge.budget.spend(audit=True)
        judge.learn(decision, observe(), 9.0, 0.0)
    again = gate("audit", "uncertain", audit_probability=1.0, budget=60)
    again.restore(json.loads(json.dumps(judge.state())))
    assert (again.audits.audits, again.audits.bad) == (3, 3)
    assert (again.budget.spent, again.budget.audits, again.budget.left) == (3, 3, 57)
    assert again.notice == judge.notice is not None


def test_a_state_is_not_changed_by_going_on():
    judge = gate("uncertain")
    decide(judge)
    state = judge.state()
    text = json.dumps(state)
    decide(judge)
    assert json.dumps(state) == text


# what must never happen


@pytest.mark.parametrize("spread", [None, np.inf])
def test_without_a_number_from_the_committee_no_budget_lets_its_answer_pass(spread):
    judge = gate("uncertain", budget=1, when_budget_ends="continue")
    judge.budget.spend(audit=False)
    assert decide(judge, 9.0).unpaid  # a doubt goes on unverified
    with pytest.raises(BudgetExhausted):
        decide(judge, spread)


flags = st.lists(st.sampled_from([BREAKING, CLASH, WARM, STRANGER]), max_size=3, unique=True)


@given(
    policies=st.sets(st.sampled_from(sorted(ALL - {"unseen"}))),
    labels=st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1)), max_size=8),
    spread=st.one_of(st.none(), st.floats(0, 10)),
    place=st.floats(-2, 2),
    up=flags,
    regime=st.sampled_from([CALM, REACTIVE]),
    spending=st.integers(0, 12),
    end=st.sampled_from(["stop", "continue"]),
    draw=st.floats(0.01, 1),
)
def test_without_trust_no_unvalidated_regime_passes_unasked(
    *, policies, labels, spread, place, up, regime, spending, end, draw
):
    judge = gate(
        "unseen",
        *policies,
        trust=False,
        budget=12,
        when_budget_ends=end,
        audit_probability=draw,
    )
    for force_error, energy_error in labels:
        teach(judge, 1, force_error=force_error, energy_error=energy_error, regime=regime)
    judge.budget.spent = spending
    try:
        decision = decide(judge, spread, place, *up, regime=regime)
    except BudgetExhausted:
        return
    asked = decision.source is Source.REFERENCE and "unseen" in decision.policies
    marked = end == "continue" and "unseen" in [reason.policy for reason in decision.unpaid]
    assert asked or marked


@given(
    labels=st.lists(st.tuples(st.floats(0, 0.4), st.sampled_from([0.0, 1.0, 5.0])), max_size=12),
    place=st.sampled_from([0.0, 0.5, 5.0]),
)
def test_with_trust_only_three_good_frames_nearby_let_a_regime_pass(labels, place):
    judge = gate("unseen")
    count = 0
    for error, where in labels:
        teach(judge, 1, place=where, force_error=error)
        if abs(where - place) <= RADIUS:
            count = count + 1 if error <= 0.2 else 0
    assert (decide(judge, place=place).source is Source.COMMITTEE) is (count >= 3)


@given(
    name=st.sampled_from(["energies", "forces", "stress", "descriptors"]),
    where=st.integers(0, 10_000),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_number_that_is_not_finite_never_becomes_a_prediction(name, where, bad):
    parts = {
        "energies": np.zeros(2),
        "forces": np.zeros((2, ATOMS, 3)),
        "stress": np.zeros((2, 6)),
        "descriptors": np.zeros((ATOMS, 4)),
    }
    parts[name].flat[where % parts[name].size] = bad
    with pytest.raises(PredictionFailed, match="not finite"):
        Prediction(**parts)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_spread_never_means_less_asking(small, large):
    assume(small <= large)
    asks = [bool(decide(gate("uncertain"), spread).reasons) for spread in (small, large)]
    assert asks[0] <= asks[1]


def test_a_state_of_an_earlier_version_is_refused_with_what_to_do():
    old = {"evidence": [], "spent": 3, "audits": 1, "audited": 1, "audited_bad": 0}
    with pytest.raises(InputError, match="finish it with that version"):
        gate("uncertain").restore(old)
