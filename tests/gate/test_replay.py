"""A gate over frames whose outcome is known: what it asked, saw and missed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.gate.gate import Gate
from hybrid_calc.gate.observation import Observation, Outcome
from hybrid_calc.gate.replay import ReplayFrame, replay
from hybrid_calc.gate.settings import PRESETS, GateSettings
from tests.gate.scenes import BREAKING, CALM, CLASH, REACTIVE, observe


def frame(spread, error, *flags, trajectory="", temperature=None, regime=CALM):
    return ReplayFrame(
        observation=observe(spread, 0.0, *flags, regime=regime, temperature=temperature),
        outcome=Outcome(force_error=error),
        trajectory=trajectory,
    )


def uncertain_only(**settings):
    return Gate(GateSettings(policies=frozenset({"uncertain"}), **settings))


def test_every_figure_by_hand():
    # 3 x spread against 0.2: asked at 0.1, not at 0.01
    shown = [frame(0.1, 0.5), frame(0.01, 0.5), frame(0.1, 0.1), frame(0.01, 0.1)]
    result = replay(shown, uncertain_only())
    assert result.asked.tolist() == [True, False, True, False]
    assert result.bad.tolist() == [True, True, False, False]
    assert result.scores == pytest.approx([0.3, 0.03, 0.3, 0.03])
    assert result.thresholds.tolist() == [0.2] * 4
    assert result.force_errors.tolist() == [0.5, 0.5, 0.1, 0.1]
    assert result.reasons == (("uncertain",), (), ("uncertain",), ())
    assert result.regimes == ("equilibrium H O",) * 4
    assert not result.validated.any()
    assert result.call_rate == 0.5
    assert result.missed_share_given_bad == 0.5
    assert result.missed_share == 0.25
    assert result.stopped == ""


def test_only_what_was_asked_is_learned():
    judge = uncertain_only()
    replay([frame(0.01, 0.5)] * 50, judge)
    assert len(judge.evidence) == 0
    replay([frame(0.1, 0.9)] * 5, judge)
    assert len(judge.evidence) == 5
    assert judge.factor(CALM, 0.1) == pytest.approx(9.0)


def test_an_audited_bad_frame_counts_as_missed_by_the_gate_and_is_what_audits_estimate():
    judge = Gate(GateSettings(policies=frozenset({"audit"}), audit_probability=1.0))
    result = replay([frame(0.01, 0.5), frame(0.01, 0.1)] * 20, judge)
    assert result.asked.all()
    assert result.audited.all()
    assert not result.flagged.any()
    assert result.missed_share_given_bad == 1.0
    assert result.missed_share == result.missed.estimate == 0.5
    assert result.missed.audits == 40


def test_hysteresis_belongs_to_a_trajectory_and_to_dynamics():
    def shown(*names, temperature):
        rows = [frame(0.1, 0.1, trajectory=names[0], temperature=temperature)]
        return rows + [frame(0.01, 0.1, trajectory=n, temperature=temperature) for n in names[1:]]

    asked = replay(shown(*"aaaaaaa", temperature=300), uncertain_only()).asked
    assert asked.tolist() == [True] * 5 + [False] * 2
    asked = replay(shown(*"ababab", temperature=300), uncertain_only()).asked
    assert asked.tolist() == [True, False, True, False, True, False]
    assert replay(shown(*"aaaa", temperature=None), uncertain_only()).asked.sum() == 1


@pytest.mark.parametrize("preset", ["uncertainty", "all"])
def test_a_spent_budget_ends_the_replay_and_says_so(preset):
    judge = Gate(GateSettings(policies=preset, budget=4, audit_reserve=0))
    result = replay([frame(0.1, 0.1)] * 10, judge)
    assert len(result.asked) == 4
    assert "budget of 4" in result.stopped


@pytest.mark.parametrize("preset", ["uncertainty", "all"])
def test_where_the_user_goes_on_the_rest_of_the_budget_is_for_the_worst(preset):
    random = np.random.default_rng(0)
    spreads = random.uniform(0.05, 0.3, 400)
    shown = [frame(float(spread), 0.1) for spread in spreads]
    settings = GateSettings(
        policies=preset,
        budget=100,
        when_budget_ends="continue",
        factor_labels=1000,
        audit_reserve=0,
    )
    judge = Gate(settings)
    judge.horizon = 400
    result = replay(shown, judge)
    assert 90 <= result.asked.sum() <= 100
    assert result.asked[300:].sum() > 15  # something was left for the last quarter
    assert spreads[result.asked].mean() > spreads[~result.asked].mean() + 0.05
    first_come = replay(shown, Gate(settings))
    assert first_come.asked.sum() == 100  # without a horizon it is first come, first served
    assert not first_come.asked[200:].any()


@pytest.mark.parametrize(
    ("preset", "doubts"), [("uncertainty", ["uncertain"]), ("all", ["contradiction", "uncertain"])]
)
def test_what_the_budget_cannot_pay_for_is_named_and_unverified(preset, doubts):
    judge = Gate(GateSettings(policies=preset, budget=10, when_budget_ends="continue"))
    judge.horizon = 1000
    replay([frame(spread, 0.1) for spread in (0.1, 0.2, 0.3, 0.4)], judge)  # trusted from here on
    decision = judge.decide(observe(0.1))
    assert decision.reasons == ()
    assert [reason.policy for reason in decision.unpaid] == doubts
    assert all("the rest of the budget pays for" in reason.detail for reason in decision.unpaid)


def test_what_a_flag_or_a_missing_validation_asks_for_is_not_saved():
    judge = Gate(GateSettings(policies="all", budget=10, when_budget_ends="continue"))
    judge.horizon = 1000
    replay([frame(spread, 0.1) for spread in (0.1, 0.2, 0.3, 0.4)], judge)
    assert judge.decide(observe(0.1)).unpaid  # a doubt alone is
    flagged = judge.decide(observe(0.01, 0.0, CLASH, regime=REACTIVE))
    assert flagged.policies == ("contradiction", "unseen")
    assert flagged.unpaid == ()
    unseen = judge.decide(observe(0.1, 9.0))
    assert "unseen" in unseen.policies
    assert unseen.unpaid == ()


def test_steps_without_a_budget_for_audits_are_not_counted_as_to_come():
    settings = GateSettings(policies="uncertainty", budget=2, when_budget_ends="continue")
    judge = Gate(settings)
    judge.horizon = 100
    replay([frame(0.3, 0.1)] * 2 + [frame(0.01, 0.1)] * 58, judge)
    assert judge.budget.left == 0
    assert judge.audits.unsampled > 0
    assert judge.audits.geometries + judge.audits.unsampled == 60
    judge.budget.total = 22  # of 40 steps to come every second one can be paid for
    result = replay([frame(s, 0.1) for s in np.linspace(0.3, 0.5, 40)], judge)
    assert 15 <= result.asked.sum() <= 20


@pytest.mark.parametrize("preset", ["uncertainty", "all"])
def test_no_budget_is_saved_where_the_user_would_rather_stop(preset):
    judge = Gate(GateSettings(policies=preset, budget=3, audit_reserve=0))
    judge.horizon = 1000
    assert replay([frame(0.1, 0.1)] * 3, judge).asked.all()


@pytest.mark.parametrize(
    ("preset", "asked"),
    [
        ("uncertainty", [False, True, False, True]),
        ("contradiction", [False, True, True, True]),
        ("unseen", [True, True, True, False]),
        ("all", [True, True, True, True]),
    ],
)
def test_the_presets_are_three_choices_of_when_to_validate(preset, asked):
    shown = [
        frame(0.01, 0.1),
        frame(0.1, 0.1),  # the committee disagrees and no flag is up
        frame(0.01, 0.1, BREAKING, regime=REACTIVE),  # a flag while the committee is calm
        frame(0.1, 0.1, BREAKING, regime=CALM),  # both object; nothing contradicts
    ]
    # the last one has three validated neighbours in its regime where everything was asked
    judge = Gate(GateSettings(policies=preset, trust_frames=2))
    assert judge.settings.policies == PRESETS[preset]
    result = replay(shown, judge)
    assert result.flagged.tolist() == asked


def test_a_preset_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="known presets are uncertainty, contradiction, unseen"):
        GateSettings(policies="luck")


def test_nothing_is_replayed_as_nothing():
    result = replay([], Gate())
    assert len(result.asked) == 0
    assert np.isnan([result.call_rate, result.missed_share_given_bad, result.missed_share]).all()


@pytest.mark.parametrize(
    "bad", [{"force_error": np.nan}, {"force_error": 1, "energy_error": np.inf}]
)
def test_an_outcome_that_is_no_number_is_refused(bad):
    with pytest.raises(InputError, match="must be finite"):
        Outcome(**bad)


def test_what_was_observed_survives_json():
    more = {"temperature": 310.0, "molecule": "H2O", "novelty": 1.2, "second_opinion": np.nan}
    seen = observe(0.1, 2.0, BREAKING, **more)
    again = Observation.from_dict(seen.to_dict(), seen.fingerprint)
    assert again.regime == seen.regime
    assert again.report == seen.report
    assert again.signals == {"force_spread": 0.1, "novelty": 1.2}
    assert np.isnan(again.signal("second_opinion"))
    assert again.mean_temperature == 310.0
    assert again.molecule == "H2O"


@given(st.lists(st.tuples(st.floats(0, 0.4), st.floats(0, 0.6)), max_size=60), st.integers(0, 5))
def test_the_same_seed_replays_the_same(rows, seed):
    shown = [frame(spread, error, temperature=300) for spread, error in rows]
    first, second = (replay(shown, Gate(GateSettings(seed=seed))) for _ in range(2))
    assert np.array_equal(first.asked, second.asked)
    assert first.reasons == second.reasons
