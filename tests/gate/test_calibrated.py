"""What a calibration changes in a decision, when it is void, and when audits put it aside."""

from __future__ import annotations

import json
import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.flags.report import Severity
from hybrid_calc.gate.calibrated import (
    Calibration,
    CalibrationMismatchWarning,
)
from hybrid_calc.gate.control import Streak
from hybrid_calc.gate.doubts import CalibrationDoubtedWarning
from hybrid_calc.gate.gate import EvidenceVoidWarning, Gate
from hybrid_calc.gate.policy import Source
from hybrid_calc.gate.settings import GateSettings
from tests.gate.calibrations import Table, known
from tests.gate.scenes import ALL, BREAKING, CALM, CLASH, REACTIVE, WARM, flag, observe

QUIET = ALL - {"audit"}


def gate(calibration=None, *, policies=QUIET, **settings):
    return Gate(GateSettings(policies=policies, **settings), calibration or Table({CALM: known()}))


def test_the_protocol_is_what_the_table_is():
    assert isinstance(Table(), Calibration)


@pytest.mark.parametrize(("risk", "asks"), [(0.0, False), (0.29, False), (0.30, True), (1.0, True)])
def test_the_calibrated_score_decides_and_nothing_need_be_seen_first(risk, asks):
    decision = gate().decide(observe(9.0, risk=risk))  # whatever the spread
    assert decision.validated
    assert decision.standing == "validated by 200 frames, 20 bad: at most 10 % of bad ones pass"
    assert (decision.score, decision.threshold, decision.factor) == (risk, 0.3, 2.5)
    assert (decision.source is Source.REFERENCE) is asks
    if asks:
        assert decision.policies == ("contradiction", "uncertain")  # and no flag is up
        assert decision.reasons[1].detail == f"P(bad) {risk:.2g} against 0.3"


def test_a_score_that_is_no_number_asks():
    decision = gate().decide(observe(0.01))
    assert math.isnan(decision.score)
    assert "uncertain" in decision.policies


def test_another_regime_stays_unvalidated():
    decision = gate().decide(observe(0.01, risk=0.0, regime=REACTIVE))
    assert not decision.validated
    assert decision.standing == "unvalidated"
    assert decision.policies == ("unseen",)
    assert decision.factor == 3.0


def test_a_regime_without_guarantee_is_one_without_calibration():
    judge = gate(Table({CALM: known(validated=False)}))
    assert judge.decide(observe(0.01, risk=0.0)).policies == ("unseen",)


@pytest.mark.parametrize(
    ("novelty", "asks"), [(0.5, False), (1.5, False), (1.6, True), (math.inf, True)]
)
def test_an_environment_too_far_from_the_training_data_is_unseen(novelty, asks):
    judge = gate(Table({CALM: known(novelty_limit=1.5)}))
    decision = judge.decide(observe(0.01, risk=0.0, novelty=novelty))
    assert decision.policies == (("unseen",) if asks else ())


def test_novelty_that_is_unknown_is_not_covered_where_it_counts():
    judge = gate(Table({CALM: known(novelty_limit=1.5)}))
    assert judge.decide(observe(0.01, risk=0.0)).policies == ("unseen",)
    assert judge.decide(observe(0.01, risk=0.0, novelty=math.nan)).policies == ("unseen",)
    assert gate().decide(observe(0.01, risk=0.0)).policies == ()


def test_trust_silences_an_unseen_environment_of_a_validated_regime():
    judge = gate(Table({CALM: known(novelty_limit=1.5)}))
    scene = observe(0.01, risk=0.0, novelty=9.0)
    for _ in range(3):
        decision = judge.decide(scene)
        assert decision.policies == ("unseen",)
        judge.learn(decision, scene, 0.01, 0.0)
    assert judge.decide(scene).reasons == ()


def test_evidence_is_looked_up_where_something_hinges_on_it_and_for_every_label():
    judge = gate(Table({CALM: known(novelty_limit=1.5)}))
    calm, new = (observe(0.01, risk=0.0, novelty=novelty) for novelty in (1.0, 9.0))
    assert judge.decide(calm).trust is None
    for neighbours in range(3):
        decision = judge.decide(new)
        assert decision.trust.neighbours == neighbours
        judge.learn(decision, new, 0.01, 0.0)
    wanted = judge.decide(calm, wanted="a driver wants it")
    assert wanted.trust.neighbours == 3
    flagged = judge.decide(observe(0.01, 0.0, BREAKING, risk=0.0, novelty=1.0))
    assert flagged.trust is not None


def test_flags_that_make_a_calibrated_regime_contradict_nothing_there():
    judge = gate(Table({REACTIVE: known()}))
    assert judge.decide(observe(0.01, 0.0, BREAKING, risk=0.0, regime=REACTIVE)).policies == ()
    decision = judge.decide(observe(0.01, 0.0, BREAKING, risk=0.5, regime=REACTIVE))
    assert "uncertain" in decision.policies


def test_a_hard_flag_contradicts_a_calibrated_committee_that_is_calm():
    jump = flag("step_displacement", Severity.HARD, atoms=(1,), value=0.5, limit=0.3, unit="A")
    decision = gate().decide(observe(0.01, 0.0, jump, risk=0.0))
    assert decision.policies == ("contradiction",)


# whose molecules

WATER = frozenset({"H2O", "H4O2"})


def test_a_molecule_that_was_not_calibrated_with_is_unseen_and_unvalidated():
    judge = gate(Table({CALM: known(molecules=WATER)}))
    assert judge.decide(observe(0.01, risk=0.0, molecule="H2O")).validated
    for name in ("H2O2", "H2O (periodic)"):
        decision = judge.decide(observe(0.01, risk=0.0, molecule=name))
        assert not decision.validated
        assert decision.policies == ("unseen",)
        assert decision.reasons[0].detail == (
            f"{name}: equilibrium H O is validated for H2O, H4O2 only, "
            "0 of 3 validated frames nearby"
        )
        assert decision.standing == (
            f"unvalidated: too few frames of {name} were among the validated ones"
        )


def test_where_nobody_names_molecules_none_is_compared():
    assert gate(Table({CALM: known(molecules=WATER)})).decide(observe(0.01, risk=0.0)).validated
    assert gate().decide(observe(0.01, risk=0.0, molecule="H2O2")).validated


def test_trust_stops_the_asking_about_a_new_molecule_and_not_the_label():
    judge = gate(Table({CALM: known(molecules=WATER)}))
    scene = observe(0.01, risk=0.0, molecule="H2O2")
    for neighbours in range(3):
        decision = judge.decide(scene)
        assert decision.trust.neighbours == neighbours
        judge.learn(decision, scene, 0.01, 0.0)
    decision = judge.decide(scene)
    assert decision.reasons == ()
    assert not decision.validated
    assert decision.standing == (
        "unvalidated: too few frames of H2O2 were among the validated ones, "
        "trusted by 3 frames of this run"
    )


@pytest.mark.parametrize("novelty", [1.0, 1.6, math.nan])
def test_familiar_environments_do_not_vouch_for_a_new_molecule(novelty):
    judge = gate(Table({CALM: known(molecules=WATER, novelty_limit=1.5)}), policies=ALL)
    decision = judge.decide(observe(0.01, risk=0.0, novelty=novelty, molecule="H2O2"))
    assert "unseen" in decision.policies
    assert not decision.validated
    assert decision.audit_probability == 0.2  # as in any regime that is new


@pytest.mark.parametrize("policy", ["contradiction", "uncertain"])
def test_a_calibration_for_others_makes_the_gate_no_laxer_than_none(policy):
    """Flags ask and three sigma count (3 x 0.1 against 0.2) as where nothing is calibrated."""
    scenes = [
        observe(0.1, risk=0.0, molecule="H2O2"),
        observe(0.01, 0.0, BREAKING, regime=REACTIVE, risk=0.0, molecule="H2O2"),
    ]
    table = Table({regime: known(molecules=WATER) for regime in (CALM, REACTIVE)})
    for scene in scenes:
        for_others = gate(table, policies={policy}).decide(scene)
        without = gate(Table(), policies={policy}).decide(scene)
        assert for_others.policies == without.policies
        assert (for_others.score, for_others.threshold) == (without.score, without.threshold)
    assert gate(table, policies={policy}).decide(scenes[policy == "contradiction"]).reasons


def test_frames_of_other_molecules_neither_hide_nor_refute_a_calibration():
    table = Table({CALM: known(molecules=WATER)})
    judge = gate(table, policies={"audit"}, audit_probability=1.0, audit_probability_new=1.0)
    stranger = observe(0.01, risk=0.0, molecule="H2O2")
    for _ in range(50):
        judge.learn(judge.decide(stranger), stranger, 9.0, 0.0)
    assert judge.doubted == {}
    mine = observe(0.01, risk=0.0, molecule="H2O")
    # One bad frame is taken to have been asked, so 1/9 of one is allowed to be missed.
    # P(1 or more) is 10 %, P(2 or more) 0.6 %.
    judge.learn(judge.decide(mine), mine, 9.0, 0.0)
    assert judge.doubted == {}
    with pytest.warns(CalibrationDoubtedWarning):
        judge.learn(judge.decide(mine), mine, 9.0, 0.0)
    assert judge.decide(mine).calibration is None


def test_what_something_else_asked_for_is_not_counted_for_the_threshold():
    """Bad frames below the threshold that a new environment asked for."""
    table = Table({CALM: known(novelty_limit=1.5)})
    judge = gate(table, policies={"unseen", "audit"}, audit_probability=1.0)
    new = observe(0.01, risk=0.0, novelty=2.0)
    for _ in range(50):
        assert judge.decide(new).policies == ("unseen",)
        judge.learn(judge.decide(new), new, 9.0, 0.0)
    old = observe(0.01, risk=0.0, novelty=1.0)
    judge.learn(judge.decide(old), old, 9.0, 0.0)
    with pytest.warns(CalibrationDoubtedWarning):
        judge.learn(judge.decide(old), old, 9.0, 0.0)


def test_audits_of_a_validated_molecule_settle_nothing_for_others():
    judge = gate(Table({CALM: known(molecules=WATER)}), policies={"audit"}, audit_probability=1.0)
    mine = observe(0.01, risk=0.0, molecule="H2O")
    for _ in range(20):
        judge.learn(judge.decide(mine), mine, 0.01, 0.0)
    assert judge.audits.settled == {}


# whose calibration


def test_a_calibration_of_another_committee_is_void():
    judge = gate()
    with pytest.warns(CalibrationMismatchWarning, match="belongs to committee abc .* other"):
        judge.bind("other")
    assert judge.usable_calibration is None
    assert judge.decide(observe(0.01, risk=0.0)).policies == ("unseen",)


def test_the_same_committee_keeps_it():
    judge = gate()
    judge.bind("abc")
    assert judge.decide(observe(0.01, risk=0.0)).validated


def test_trust_of_one_committee_is_void_for_the_next():
    judge = Gate(GateSettings(policies=QUIET))
    judge.bind("abc")
    scene = observe()
    for _ in range(3):
        judge.learn(judge.decide(scene), scene, 0.01, 0.0)
    decision = judge.decide(scene)
    assert decision.trusted
    assert decision.standing == "unvalidated, trusted by 3 frames of this run"
    with pytest.warns(EvidenceVoidWarning, match="trust starts anew"):
        judge.bind("next")
    assert judge.decide(scene).policies == ("unseen",)
    assert judge.factor(CALM) == 3.0


def test_a_state_of_another_committee_brings_back_what_was_spent_and_no_trust():
    first = Gate(GateSettings(policies=QUIET, budget=10))
    first.bind("abc")
    scene = observe()
    for _ in range(3):
        first.learn(first.decide(scene), scene, 0.01, 0.0)
        first.budget.spend(audit=False)
    state = json.loads(json.dumps(first.state()))
    second = Gate(GateSettings(policies=QUIET, budget=10))
    second.bind("next")
    with pytest.warns(EvidenceVoidWarning):
        second.restore(state)
    assert second.committee == "next"
    assert second.budget.spent == 3
    assert second.decide(scene).policies == ("unseen",)
    third = Gate(GateSettings(policies=QUIET, budget=10))
    third.bind("abc")
    third.restore(state)
    assert third.decide(scene).trusted


# doubts


def audited_until_bad(judge):
    scene = observe(0.01, risk=0.0)
    while not (decision := judge.decide(scene)).is_audit:
        pass
    return judge.learn(decision, scene, 9.0, 0.0)


def test_audits_that_contradict_the_bound_set_the_calibration_aside():
    judge = gate(policies=ALL, audit_probability=0.5)
    for _ in range(10):  # bad frames that it caught
        scene = observe(0.01, risk=0.9)
        judge.learn(judge.decide(scene), scene, 9.0, 0.0)
    # 10 / 9 of a missed frame expected, 0.56 found: 1 in 43 %, 2 in 11 %, 3 in 2 % of such runs
    for _ in range(2):
        audited_until_bad(judge)
        assert judge.doubted == {}
        assert judge.decide(observe(0.01, risk=0.0)).validated
    with pytest.warns(CalibrationDoubtedWarning, match="found 3 bad frames .* 10 were asked"):
        audited_until_bad(judge)
    assert list(judge.doubted) == [str(CALM)]
    decision = judge.decide(observe(0.01, risk=0.0))
    assert not decision.validated
    assert "unseen" in decision.policies
    again = gate(policies=ALL, audit_probability=0.5)
    again.restore(json.loads(json.dumps(judge.state())))
    assert again.doubted == judge.doubted
    assert not again.decide(observe(0.01, risk=0.0)).validated


def test_good_audits_leave_a_calibration_alone():
    judge = gate(policies=ALL, audit_probability=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            scene = observe(0.01, risk=0.0)
            judge.learn(judge.decide(scene), scene, 0.01, 0.0)
    assert judge.doubted == {}
    assert judge.audits.audits == 50


# what must never happen


@given(
    policies=st.sets(st.sampled_from(sorted(ALL - {"unseen"}))),
    calibration=st.sampled_from(
        [
            None,
            Table({REACTIVE: known()}),
            Table({CALM: known(validated=False)}),
            Table({CALM: known()}, identity="other"),
            Table({CALM: known(molecules=WATER)}),
        ]
    ),
    labels=st.lists(st.floats(0, 1), max_size=8),
    signals=st.fixed_dictionaries(
        {}, optional={name: st.floats(allow_nan=True) for name in ("force_spread", "risk")}
    ),
    flags=st.lists(st.sampled_from([BREAKING, CLASH, WARM]), max_size=2, unique=True),
    temperature=st.sampled_from([None, 300.0]),
    held=st.sampled_from([None, 0, 4]),
)
def test_without_trust_no_regime_without_valid_calibration_passes_unasked(
    *, policies, calibration, labels, signals, flags, temperature, held
):
    judge = gate(calibration or Table(), policies=policies | {"unseen"}, trust=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationMismatchWarning)
        judge.bind("abc")
    for error in labels:
        scene = observe(0.01, molecule="H2O2")
        judge.learn(judge.decide(scene), scene, error, 0.0)
    scene = observe(None, 0.0, *flags, temperature=temperature, molecule="H2O2", **signals)
    decision = judge.decide(scene, streak=Streak(held))
    assert decision.source is Source.REFERENCE
    assert "unseen" in decision.policies
    assert not decision.validated


@given(
    policies=st.sets(st.sampled_from(sorted(ALL)), min_size=1),
    name=st.sampled_from(["force_spread", "risk", "novelty"]),
    value=st.sampled_from([math.nan, math.inf]),
    calibrated=st.booleans(),
)
def test_a_number_that_is_none_asks_under_every_policy_that_looks_at_it(
    *, policies, name, value, calibrated
):
    table = Table({CALM: known(novelty_limit=1.5)} if calibrated else {})
    judge = gate(table, policies=frozenset(policies))
    scene = observe(0.01, risk=0.0, novelty=0.1)
    for _ in range(3):
        decision = judge.decide(scene, wanted="to earn trust" if name != "novelty" else "x")
        judge.learn(decision, scene, 0.01 if name != "novelty" else 9.0, 0.0)
    broken = observe(
        **{"spread": None, "risk": 0.0, "novelty": 0.1, "force_spread": 0.01, name: value}
    )
    looks = {
        "force_spread": ALL,
        "risk": {"uncertain", "contradiction"} if calibrated else set(),
        "novelty": {"unseen"} if calibrated else set(),
    }[name]
    if looks & policies:
        assert judge.decide(broken).source is Source.REFERENCE


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("policies", [ALL, {"unseen"}, set()])
def test_a_mean_temperature_that_is_no_number_asks_under_every_policy(bad, policies):
    judge, scene = gate(policies=frozenset(policies)), observe(risk=0.0, temperature=300.0)
    for _ in range(3):
        judge.learn(judge.decide(scene, wanted="to earn trust"), scene, 0.01, 0.0)
    assert "outside" in judge.decide(observe(risk=0.0, temperature=bad)).policies


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_fingerprint_that_is_no_number_is_refused(bad):
    with pytest.raises(InputError, match="fingerprint"):
        observe(place=bad)


@pytest.mark.parametrize("errors", [(math.nan, 0.0), (0.1, math.nan), (math.inf, 0.0)])
def test_nothing_is_learned_from_what_is_no_number(errors):
    judge, scene = gate(), observe(risk=0.9)
    with pytest.raises(InputError, match="nothing can be learned"):
        judge.learn(judge.decide(scene), scene, *errors)
