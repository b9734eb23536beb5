"""Which labelled frames count, and for how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_calc.errors import InputError
from hybrid_calc.gate.evidence import Trust
from hybrid_calc.gate.labelled import least_label_probability
from hybrid_calc.gate.policy import Decision, Source
from hybrid_calc.gate.settings import GateSettings
from tests.gate.calibrations import known
from tests.gate.populations import CALM, TOLERANCE, correlated, frames_of


def decision(**more):
    plain = {
        "source": Source.COMMITTEE, "reasons": (), "regime": CALM, "spread": 0.1, "factor": 3.0,
        "score": 0.3, "threshold": 0.2, "trust": Trust(), "audit_probability": 0.03,
    }  # fmt: skip
    return Decision(**plain | more)


@pytest.mark.parametrize(
    ("settings", "validated", "least"),
    [
        ({}, False, 0.03),  # trust may silence everything but audits
        ({"trust": False}, False, 1.0),  # an unvalidated regime always asks
        ({"trust": False}, True, 0.03),
        ({"trust": False, "policies": "uncertainty"}, False, 0.03),
        ({"budget": 10}, False, 0.03),  # the run stops when it is spent
        ({"budget": 10, "when_budget_ends": "continue"}, False, 0.0),
        ({"trust": False, "budget": 10, "when_budget_ends": "continue"}, False, 0.0),
    ],
)
def test_how_little_of_a_regime_may_have_been_labelled(settings, validated, least):
    behind = decision(calibration=known() if validated else None)
    found = least_label_probability(GateSettings(**settings), behind)
    assert found == least


@pytest.mark.parametrize("elsewhere", [False, True])
def test_without_trust_a_molecule_that_nothing_vouches_for_is_always_asked(elsewhere):
    made = decision(elsewhere=elsewhere, molecule="H2O2")
    assert least_label_probability(GateSettings(trust=False), made) == 1.0


def test_a_molecule_is_shown_by_five_independent_frames():
    table = frames_of(np.full(9, 0.1))
    table = replace(table, molecules=["H2O"] * 5 + ["H2O2"] * 4)
    assert table.shown_molecules() == ("H2O",)


def test_a_gate_that_never_audits_may_leave_everything_out():
    settings = GateSettings(policies=["uncertain"])
    assert least_label_probability(settings, decision(audit_probability=0.0)) == 0


def test_excess_is_the_larger_of_both_errors_over_its_tolerance():
    frames = frames_of([0.1, 0.3], energy_errors=np.array([0.2, 0.0]))
    assert frames.excess(0.2, 0.1).tolist() == pytest.approx([2.0, 1.5])


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy_errors": np.array([0.0, np.nan])},
        {"energy_errors": np.array([0.0, -0.1])},
        {"weights": np.array([1.0, np.nan])},
        {"weights": np.array([1.0, 0.5])},
        {"heaviest": np.array([1.0, np.inf])},
        {"weights": np.ones(3)},
        {"signals": {"force_spread": np.ones(3)}},
    ],
)
def test_what_is_no_table_is_refused(wrong):
    with pytest.raises(InputError):
        frames_of([0.1, 0.2], **wrong)
    with pytest.raises(InputError):
        frames_of([0.1, np.nan])


def test_taking_keeps_rows_together():
    frames = frames_of([0.1, 0.2, 0.3], trajectories=np.array([7, 8, 9]))
    some = frames.take(np.array([True, False, True]))
    assert some.force_errors.tolist() == [0.1, 0.3]
    assert some.trajectories.tolist() == [7, 9]
    assert some.signals["force_spread"].tolist() == [0.1, 0.3]
    assert len(frames.take(np.zeros(3, dtype=bool))) == 0


def test_a_run_audited_rarely_does_not_spoil_frames_that_were_all_labelled():
    # 100 frames of weight 1; 50 asked for and 10 audited with p = 1/30: together (100 + 350) / 30
    weights = np.concatenate([np.ones(150), np.full(10, 30.0)])
    heaviest = np.concatenate([np.ones(100), np.full(60, 30.0)])
    runs = np.repeat([0, 1], [100, 60])
    frames = frames_of(np.ones(160), weights=weights, heaviest=heaviest, trajectories=runs)
    kept = frames.evenly_weighted()
    assert (len(kept), kept.weight_limit) == (100, 1.0)
    # a thousand audited frames are worth 30,000 / 30 and the hundred others come for nothing
    weights = np.concatenate([np.ones(100), np.full(1000, 30.0)])
    runs = np.repeat([0, 1], [100, 1000])
    frames = frames_of(np.ones(1100), weights=weights, heaviest=weights, trajectories=runs)
    assert len(frames.evenly_weighted()) == 1100


def test_a_run_counts_as_rarely_audited_though_chance_brought_no_audit():
    runs = np.repeat([0, 1], 10)
    frames = frames_of(np.ones(20), heaviest=np.repeat([1.0, 30.0], 10), trajectories=runs)
    assert frames.evenly_weighted().trajectories.tolist() == [0] * 10
    assert frames.weight_limit == 30


@given(st.lists(st.floats(1, 50), min_size=1, max_size=20))
def test_no_choice_of_runs_is_worth_more(limits):
    frames = frames_of(np.ones(len(limits)), weights=np.array(limits), heaviest=np.array(limits))
    kept = frames.evenly_weighted()
    worth = kept.weights.sum() / kept.weight_limit
    for limit in limits:
        assert frames.weights[frames.weights <= limit].sum() / limit <= worth + 1e-9


def test_thinning_leaves_frames_that_do_not_know_each_other():
    random = np.random.default_rng(0)
    log = np.concatenate([correlated(random, 1000, 0.9) for _ in range(3)])
    frames = frames_of(
        TOLERANCE * np.exp(log),
        trajectories=np.repeat(np.arange(3), 1000),
        steps=np.tile(np.arange(1000), 3),
    )
    thin = frames.thinned(TOLERANCE, 0.1)
    assert 60 < len(thin) < 400  # an AR(1) of 0.9 has length 19; of its exponential a bit less
    pairs = np.log(thin.force_errors[thin.trajectories == 0])
    assert abs(np.corrcoef(pairs[:-1], pairs[1:])[0, 1]) < 0.4
