"""The way of one geometry through the stages, with the cheap twins."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hybrid_calc import (
    AniCommittee,
    AseReference,
    FrameStore,
    Gate,
    MembersCommittee,
    ToyCommittee,
    ToyReference,
)
from hybrid_calc.committee.spread import force_spread
from hybrid_calc.engine import REMEMBERED_GEOMETRIES, Engine
from hybrid_calc.errors import (
    BudgetExhausted,
    LevelMismatchError,
    PredictionFailed,
    ReferenceFailed,
    ReferenceNotConverged,
    StructureError,
    UnknownElementError,
)
from hybrid_calc.gate.policy import Source
from hybrid_calc.reference.ase_backend import gfn2_xtb
from tests.scripted import Failing, ScriptedGate, always, hybrid, pair, settings

OFFSET = 5.0


def engine(gate=None, *, committee=None, reference=None, **more):
    gate = gate if isinstance(gate, Gate) else Gate(gate or settings())
    return Engine(
        committee=committee or ToyCommittee(),
        reference=reference or ToyReference(),
        gate=gate,
        **more,
    )


class Described(ToyCommittee):
    """Gives descriptors as networks do."""

    def predict(self, atoms):
        numbers = np.arange(3.0 * len(atoms)).reshape(-1, 3)
        return dataclasses.replace(super().predict(atoms), descriptors=numbers)


class Refusing(ToyReference):
    def label(self, atoms):
        raise ReferenceFailed("told to fail")


def walk(run, *frames, trajectory=None):
    trajectory = trajectory or run.new_trajectory()
    return [run.evaluate(atoms, trajectory) for atoms in frames]


@pytest.fixture
def store(tmp_path):
    with FrameStore(tmp_path / "run.h5") as opened:
        yield opened


# one geometry, one decision, one record


def test_one_geometry_asked_often_is_one_decision_one_label_and_one_record(store):
    seen = []
    run = engine(always(), store=store, on_step=seen.append)
    trajectory = run.new_trajectory()
    atoms = pair(0.7)
    steps = [run.evaluate(atoms.copy(), trajectory) for _ in range(5)]
    assert all(step is steps[0] for step in steps)
    assert seen == [steps[0]]
    assert run.reference.calls == len(store) == run.tally.geometries == run.tally.labels == 1
    assert run.gate.budget.spent == 1


def test_other_trajectories_get_the_same_answer_to_the_same_geometry():
    run = engine(always())
    one, other = (run.evaluate(pair(0.7), run.new_trajectory()) for _ in range(2))
    assert one is other
    assert run.reference.calls == 1


def test_momenta_and_notes_make_no_other_geometry():
    run = engine(always())
    walk(run, pair(0.7), pair(0.7, momentum=1.0), pair(0.7, note="mine"))
    assert run.tally.geometries == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__setitem__((0, 0), 1e-12),
        lambda atoms: atoms.numbers.__setitem__(0, 3),
        lambda atoms: atoms.set_cell([5, 5, 5]),
        lambda atoms: atoms.set_pbc((True, True, True)),
        lambda atoms: atoms.set_pbc((True, False, False)),
        lambda atoms: atoms.info.update(charge=2),
        lambda atoms: atoms.info.update(spin=3),
    ],
    ids=["position", "number", "cell", "pbc", "one direction", "charge", "spin"],
)
def test_any_change_of_the_question_is_another_geometry(change):
    run = engine()
    atoms = pair(0.7)
    atoms.cell = [8, 8, 8]
    other = atoms.copy()
    change(other)
    walk(run, atoms, other)
    assert run.tally.geometries == 2


def test_the_lowest_spin_said_or_not_said_is_the_same_geometry():
    run = engine()
    walk(run, pair(0.7), pair(0.7, spin=1, charge=0))
    assert run.tally.geometries == 1


def test_a_forgotten_geometry_is_answered_from_the_store_without_a_call(store):
    run = engine(always(), store=store)
    lengths = 0.6 + np.arange(REMEMBERED_GEOMETRIES + 1) * 1e-3
    first, *_ = walk(run, *[pair(length) for length in lengths])
    calls, spent = run.reference.calls, run.gate.budget.spent
    (again,) = walk(run, pair(lengths[0]))
    assert again is not first
    assert again.energy == first.energy
    assert (run.reference.calls, run.gate.budget.spent) == (calls, spent)
    assert (run.tally.reused, len(store)) == (1, calls)


def test_a_driver_that_wants_a_label_gets_one_where_the_committee_had_answered():
    run = engine()
    trajectory = run.new_trajectory()
    first = run.evaluate(pair(0.7), trajectory)
    second = run.evaluate(pair(0.7), trajectory, wanted="confirm")
    assert (first.label, first.source) == (None, Source.COMMITTEE)
    assert second.source is Source.REFERENCE
    assert second.decision.policies == ("acquisition",)
    assert run.evaluate(pair(0.7), trajectory, wanted="again") is second
    assert run.reference.calls == 1


def test_two_threads_that_ask_the_same_get_one_label():
    run = engine(always())
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(run.evaluate(pair(0.7), run.new_trajectory()))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer is answers[0] for answer in answers)
    assert run.reference.calls == 1


def test_a_step_becomes_one_json_line_without_nan(store):
    for run in (engine(always(), store=store), engine(committee=Failing(lambda atoms: True))):
        (step,) = walk(run, pair(0.7))
        line = json.loads(json.dumps(step.to_dict(), allow_nan=False))
        assert line["source"] == "reference"
        assert line["reasons"]


def test_the_record_says_what_was_asked_and_why(store):
    run = engine(always(), store=store, reference=ToyReference(energy_offset_ev=OFFSET))
    (step,) = walk(run, pair(0.7))
    (record,) = store
    assert record.label.energy == step.label.energy  # raw, not aligned
    assert np.array_equal(record.prediction.forces, step.prediction.forces)
    assert record.meta["committee"] == run.committee.info.identity
    assert record.meta["run"] == run.run
    assert record.meta["reasons"][0][0] == "unseen"
    assert record.meta["regime"] == "equilibrium H"
    assert "numpy" in record.meta["versions"]


def test_the_record_is_complete(store):
    run = engine(always(seed=5), store=store, committee=Described())
    run.seeds["thermostat"] = 7
    first, _ = walk(run, pair(0.7), pair(0.8))
    one, two = store
    assert (one.meta["parent"], two.meta["parent"]) == ("", one.identity)
    assert one.meta["seeds"] == {"audits": 5, "thermostat": 7}
    digest = hashlib.sha256(np.arange(6.0).tobytes()).hexdigest()[:32]
    assert one.descriptors == f"2x3:{digest}"
    signals = one.meta["signals"]
    spread = force_spread(first.prediction.forces)
    assert signals["force_spread"] == one.meta["spread"] == pytest.approx(spread.max())
    assert signals["worst_atom"] == spread.argmax()
    spread = first.prediction.energies.std(ddof=1) / 2
    assert signals["energy_spread_per_atom"] == pytest.approx(spread)
    assert one.meta["evidence"] == {"neighbours": 0, "nearest": None, "worst_error": 0.0}
    assert one.label.rung == "direct"
    for key in ("flags", "regime", "reasons", "audit_probability", "run", "step", "versions"):
        assert key in one.meta


def test_a_rejected_frame_is_as_complete(store):
    run = engine(
        settings("unseen", when_reference_fails="continue"),
        store=store,
        reference=Refusing(),
    )
    walk(run, pair(0.7))
    (record,) = store
    assert record.label is None
    assert record.meta.keys() >= {
        "parent", "seeds", "signals", "evidence", "flags", "regime", "reasons",
        "audit_probability", "run", "step", "versions", "committee",
    }  # fmt: skip


def test_no_answer_is_given_before_its_label_is_durable(tmp_path):
    order = []

    class Noting(FrameStore):
        def append(self, record):
            order.append("stored")
            return super().append(record)

    with Noting(tmp_path / "run.h5") as store:
        run = engine(always(), store=store, on_step=lambda step: order.append("answered"))
        walk(run, pair(0.7))
    assert order == ["stored", "answered"]


# who answers


def test_the_committee_answers_with_the_mean_of_its_members():
    (step,) = walk(engine(), molecule("H2O"))
    assert step.source is Source.COMMITTEE
    assert step.energy == step.prediction.energies.mean()
    assert np.array_equal(step.forces, step.prediction.forces.mean(axis=0))
    assert (step.label, step.good, step.force_error, step.verified) == (None, None, None, True)


def test_the_reference_answers_with_its_own_forces():
    (step,) = walk(engine(always()), molecule("H2O"))
    assert step.source is Source.REFERENCE
    assert np.array_equal(step.forces, step.label.forces)
    worst = np.linalg.norm(step.label.forces - step.prediction.mean_forces, axis=1).max()
    assert step.force_error == pytest.approx(worst)
    assert step.verified


def test_a_structure_nobody_can_compute_is_refused_before_anything_runs():
    run = engine()
    bad = pair(0.7)
    bad.positions[0] = np.nan
    with pytest.raises(StructureError):
        walk(run, bad)
    assert run.tally.geometries == run.gate.budget.spent == 0


# aligned energies


def test_reference_energies_are_on_the_committees_zero():
    run = engine(always(), reference=ToyReference(energy_offset_ev=OFFSET))
    first, second = walk(run, pair(0.70), pair(0.62))
    assert first.energy == pytest.approx(first.prediction.energy)
    assert first.energy_error == pytest.approx(0, abs=1e-14)
    assert second.energy - first.energy == pytest.approx(second.label.energy - first.label.energy)
    assert second.label.energy - second.energy == pytest.approx(first.label.energy - first.energy)


def test_the_zero_never_moves_afterwards():
    reference = ToyReference(energy_offset_ev=OFFSET)
    run = engine(always(), reference=reference, committee=ToyCommittee(perturbation=0.2))
    steps = walk(run, *[pair(length) for length in (0.70, 0.62, 0.8, 0.9)])
    zeros = [step.label.energy - step.energy for step in steps]
    assert zeros == pytest.approx([zeros[0]] * 4, abs=1e-12)


def test_each_composition_charge_and_spin_has_a_zero_of_its_own():
    run = engine(always(), committee=ToyCommittee(perturbation=0.3))
    frames = [pair(0.7), molecule("H2O"), pair(0.7, charge=2), pair(0.7, spin=3)]
    steps = walk(run, *frames)
    for step in steps:
        assert step.energy == pytest.approx(step.prediction.energy)


def test_a_first_label_without_a_prediction_does_not_move_the_zero_later():
    broken = pair(0.70)
    run = engine(
        always(),
        committee=Failing(lambda atoms: bool(atoms == broken)),
        reference=ToyReference(energy_offset_ev=OFFSET),
    )
    first, second = walk(run, broken, pair(0.72))
    difference = second.energy - first.energy - second.energy_jump
    assert difference == pytest.approx(second.label.energy - first.label.energy, abs=0.1)


# energy jumps


def test_a_change_to_the_reference_jumps_by_the_difference_there():
    run = engine(
        ScriptedGate(lambda number: number in {0, 2, 3}),
        committee=ToyCommittee(perturbation=0.2),
    )
    trajectory = run.new_trajectory()
    lengths = (0.62, 0.65, 0.70, 0.72, 0.75)
    steps = walk(run, *[pair(length) for length in lengths], trajectory=trajectory)
    aligned = [
        None if step.label is None else step.energy - step.prediction.energy for step in steps
    ]
    assert [step.source.value[0] for step in steps] == ["r", "c", "r", "r", "c"]
    jumps = [step.energy_jump for step in steps]
    assert jumps == pytest.approx([0, -aligned[0], aligned[2], 0, -aligned[3]])
    assert aligned[3] != 0
    assert trajectory.jump_sum == pytest.approx(sum(jumps))


def dynamics(calc, *, steps, timestep=0.5):
    """Run NVE of a vibrating water; return kinetic, potential, shift and positions per frame."""
    atoms = molecule("H2O")
    atoms.positions[1] *= 1.05
    atoms.set_momenta(np.random.default_rng(0).normal(0, 0.6, (3, 3)))
    atoms.calc = calc
    rows, places = [], []

    def look():
        rows.append(
            (atoms.get_kinetic_energy(), atoms.get_potential_energy(), calc.conserved_shift)
        )
        places.append(atoms.positions.copy())

    dyn = VelocityVerlet(atoms, timestep * units.fs)
    dyn.attach(look)
    dyn.run(steps)
    return np.array(rows).T, np.array(places)


def test_kinetic_plus_potential_minus_the_jumps_is_conserved():
    # At a change of source the step before was half driven by each force, so the
    # conserved quantity moves by |dF . dx| / 2, dF = F_reference - F_committee at
    # the labelled end of that step.  The sum over all changes, as if none of them
    # cancelled, plus Verlet's own fluctuation on the committee alone is the bound.
    steps = []
    switching = hybrid(
        ScriptedGate(lambda number: number % 20 >= 10),
        committee=ToyCommittee(perturbation=0.3, seed=2),
        reference=ToyReference(energy_offset_ev=OFFSET),
        on_step=steps.append,
    )
    (kinetic, potential, shift), places = dynamics(switching, steps=200)
    alone = hybrid(committee=ToyCommittee(perturbation=0.3, seed=2))
    (quiet_kinetic, quiet_potential, _), _ = dynamics(alone, steps=200)
    verlet = np.ptp(quiet_kinetic + quiet_potential)

    bound = verlet
    changes = 0
    for number in range(1, len(steps)):
        if steps[number].source is not steps[number - 1].source:
            changes += 1
            here = steps[number] if steps[number].label is not None else steps[number - 1]
            apart = here.label.forces - here.prediction.mean_forces
            bound += abs(np.sum(apart * (places[number] - places[number - 1]))) / 2
    assert changes == 20
    conserved = kinetic + potential - shift
    assert np.ptp(conserved) < bound
    assert np.ptp(kinetic + potential) > 5 * np.ptp(conserved)


# audits


def audited_run(probability, perturbation=0.001):
    steps = []
    audits = {"audit_probability": probability} if probability else {}
    calc = hybrid(
        settings(*["audit"] * bool(audits), force_tolerance_ev_per_ang=1.0, **audits),
        committee=ToyCommittee(perturbation=perturbation),
        reference=ToyReference(energy_offset_ev=OFFSET),
        on_step=steps.append,
    )
    rows, places = dynamics(calc, steps=60)
    return rows, places, steps


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_audits_that_find_nothing_leave_the_trajectory_bitwise_unchanged(probability):
    rows, places, steps = audited_run(probability)
    plain_rows, plain_places, plain_steps = audited_run(0.0)
    audits = [step for step in steps if step.decision.is_audit]
    assert len(audits) > 10
    assert not any(step.decision.is_audit for step in plain_steps)
    assert all(step.label is not None and step.good for step in audits)
    assert all(step.source is Source.COMMITTEE for step in steps)
    assert np.array_equal(places, plain_places)
    assert np.array_equal(rows, plain_rows)


def test_an_audit_that_finds_a_bad_frame_uses_the_reference():
    run = engine(settings("audit", audit_probability=1.0), committee=ToyCommittee(perturbation=0.3))
    (step,) = walk(run, pair(0.5))
    assert step.decision.is_audit
    assert step.good is False
    assert step.source is Source.REFERENCE
    assert np.array_equal(step.forces, step.label.forces)
    assert (run.gate.audits.audits, run.gate.audits.bad, run.gate.budget.audits) == (1, 1, 1)


# a reference that fails


def always_fails(atoms):
    return True


def test_a_failed_reference_raises_by_default_and_is_kept_apart_in_the_store(store):
    run = engine(always(), reference=ToyReference(fails=always_fails), store=store)
    with pytest.raises(ReferenceNotConverged):
        walk(run, pair(0.7))
    (record,) = store
    assert record.label is None
    assert record.rejection.startswith("ReferenceNotConverged: the toy reference")
    assert record.prediction is not None
    assert (run.tally.failures, run.tally.labels, run.tally.geometries) == (1, 0, 0)
    assert store.find_label(pair(0.7), run.reference.level) is None


def test_continue_goes_on_with_the_committee_marked_unverified(store):
    run = engine(
        always(when_reference_fails="continue"),
        reference=ToyReference(fails=always_fails),
        store=store,
    )
    (step,) = walk(run, pair(0.7))
    assert step.source is Source.COMMITTEE
    assert step.verified is False
    assert step.to_dict()["verified"] is False
    assert run.tally.unverified == 1
    assert [record.label for record in store] == [None]


def test_continue_does_not_excuse_a_hard_flag():
    run = engine(
        always(when_reference_fails="continue"),
        reference=ToyReference(fails=lambda atoms: atoms.positions[1, 2] < 0.5),
    )
    walk(run, pair(0.7))
    with pytest.raises(ReferenceNotConverged):
        walk(run, pair(0.35))


def test_continue_does_not_excuse_a_committee_without_an_answer():
    run = engine(
        always(when_reference_fails="continue"),
        committee=Failing(always_fails),
        reference=ToyReference(fails=always_fails),
    )
    with pytest.raises(ReferenceNotConverged):
        walk(run, pair(0.7))


def test_continue_does_not_excuse_a_label_a_driver_wanted():
    run = engine(
        settings(when_reference_fails="continue"), reference=ToyReference(fails=always_fails)
    )
    with pytest.raises(ReferenceNotConverged):
        run.evaluate(pair(0.7), run.new_trajectory(), wanted="confirm")


def test_a_failed_geometry_is_asked_again_the_next_time():
    failing = [True, False]
    run = engine(always(), reference=ToyReference(fails=lambda atoms: failing.pop(0)))
    with pytest.raises(ReferenceNotConverged):
        walk(run, pair(0.7))
    (step,) = walk(run, pair(0.7))
    assert step.source is Source.REFERENCE
    assert run.gate.budget.spent == 2


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.floats(0.3, 1.2), min_size=1, max_size=8),
    failing=st.integers(1, 3),
    refuses=st.integers(1, 4),
    policies=st.sets(st.sampled_from(["uncertain", "contradiction", "unseen", "audit"])),
    budget=st.sampled_from([None, 0, 3]),
    when_budget_ends=st.sampled_from(["stop", "continue"]),
    when_reference_fails=st.sampled_from(["raise", "continue"]),
)
def test_no_committee_answer_stands_for_a_missing_label_in_silence(
    *, lengths, failing, refuses, policies, **chosen
):
    counter = iter(range(1000))
    run = engine(
        settings(*policies, audit_probability=0.5, force_tolerance_ev_per_ang=0.1, **chosen),
        committee=Failing(lambda atoms: int(atoms.positions[1, 2] * 1000) % refuses == 1),
        reference=ToyReference(fails=lambda atoms: next(counter) % failing == 0),
    )
    trajectory = run.new_trajectory()
    for length in lengths:
        try:
            step = run.evaluate(pair(length), trajectory)
        except (ReferenceNotConverged, BudgetExhausted, PredictionFailed):
            continue
        assert np.isfinite(step.forces).all()
        if step.label is None:
            assert step.source is Source.COMMITTEE
            assert step.prediction is not None
            wanted = step.decision.source is Source.REFERENCE or step.decision.unpaid
            assert step.verified is not bool(wanted)
        elif step.source is Source.COMMITTEE:
            assert step.decision.is_audit
            assert step.good
    assert run.tally.unverified <= run.tally.geometries


# a committee that fails or does not know


def test_a_committee_that_fails_raises_a_hard_flag_and_the_reference_answers():
    run = engine(committee=Failing(always_fails))
    (step,) = walk(run, pair(0.7))
    assert step.source is Source.REFERENCE
    assert step.prediction is None
    assert step.flags.names == ("prediction_failed",)
    assert step.decision.policies == ("outside",)
    assert (step.regime.name, step.good) == ("outside", None)


def test_a_number_that_is_not_finite_in_a_member_is_a_failed_prediction():
    class Nan(ToyCommittee):
        def predict(self, atoms):
            right = super().predict(atoms)
            return type(right)(energies=right.energies, forces=right.forces * np.nan)

    (step,) = walk(engine(committee=Nan()), pair(0.7))
    assert step.source is Source.REFERENCE
    assert step.flags.names == ("prediction_failed",)


def test_an_unknown_element_goes_to_the_reference_or_is_refused_as_chosen():
    oxygen_only = ToyCommittee(elements=frozenset({8}))
    run = engine(committee=oxygen_only)
    (step,) = walk(run, molecule("H2O"))
    assert step.source is Source.REFERENCE
    assert step.decision.reasons[0].detail.startswith("unknown_element_H")
    run = engine(settings(outside_domain="refuse"), committee=oxygen_only)
    with pytest.raises(UnknownElementError, match="also has H"):
        walk(run, molecule("H2O"))
    assert run.reference.calls == 0


def test_a_committee_that_fails_is_no_reason_to_refuse():
    (step,) = walk(
        engine(settings(outside_domain="refuse"), committee=Failing(always_fails)), pair(0.7)
    )
    assert step.source is Source.REFERENCE


# levels


def test_a_committee_of_another_level_is_refused_unless_allowed():
    emt = AseReference(EMT())
    with pytest.raises(LevelMismatchError, match="allow_level_mismatch"):
        hybrid(reference=emt)
    hybrid(reference=emt, allow_level_mismatch=True)
    hybrid(committee=MembersCommittee([EMT(), EMT()]), reference=emt)  # level not known


def test_levels_that_may_differ_share_one_zero_and_are_stored_raw(store):
    """ANI-1x (wB97X, all electrons) and GFN2-xTB (valence electrons): 3,900 eV apart."""
    pytest.importorskip("tblite", reason="pip install hybrid_calc[xtb]")
    run = hybrid(
        ScriptedGate(lambda number: number in {0, 2, 3}),
        committee=AniCommittee(),
        reference=gfn2_xtb(),
        allow_level_mismatch=True,
        store=store,
    ).engine
    frames = [molecule("CH3CH2OH") for _ in range(5)]
    for number, atoms in enumerate(frames):
        atoms.positions[3] += 0.02 * number
    steps = walk(run, *frames, trajectory=run.new_trajectory())
    assert [step.source.value for step in steps] == [
        "reference", "committee", "reference", "reference", "committee",
    ]  # fmt: skip
    apart = [step.label.energy - step.prediction.energy for step in steps if step.label]
    assert min(apart) > 3000
    assert np.ptp([step.energy for step in steps]) < 1
    assert max(abs(step.energy_error) for step in steps if step.label) < 0.3
    assert max(abs(step.energy_jump) for step in steps) < 0.3
    stored = [record.label.energy for record in store]
    assert stored == [step.label.energy for step in steps if step.label]


def test_a_store_of_another_level_is_refused(store):
    walk(engine(always(), store=store), pair(0.7))
    with pytest.raises(LevelMismatchError, match="store of its own"):
        engine(reference=AseReference(EMT()), store=store)


# budget


def test_a_spent_budget_stops_and_a_larger_one_goes_on():
    run = engine(always(budget=2, audit_reserve=0))
    walk(run, pair(0.70), pair(0.71))
    with pytest.raises(BudgetExhausted):
        walk(run, pair(0.72))
    assert run.tally.geometries == 2
    more = engine(always(budget=3, audit_reserve=0))
    more.restore(json.loads(json.dumps(run.state())))
    (step,) = walk(more, pair(0.72))
    assert step.source is Source.REFERENCE
    assert step.index == 2
    assert more.gate.budget.left == 0


def test_a_spent_budget_may_go_on_with_every_step_marked():
    run = engine(always(budget=2, audit_reserve=0, when_budget_ends="continue"))
    steps = walk(run, *[pair(length) for length in (0.70, 0.71, 0.72, 0.73)])
    assert [step.verified for step in steps] == [True, True, False, False]
    assert steps[3].to_dict()["unpaid"][0][0] == "unseen"
    assert run.tally.unverified == 2
    assert run.reference.calls == 2


# memory of each trajectory


def test_each_trajectory_has_its_own_initial_graph():
    run = engine()
    one, other = run.new_trajectory(), run.new_trajectory()
    walk(run, pair(0.74), trajectory=one)
    walk(run, pair(1.00), trajectory=other)
    (near,) = walk(run, pair(1.01), trajectory=other)
    (far,) = walk(run, pair(1.02), trajectory=one)
    assert near.flags.names == ()
    assert far.flags.names == ("bond_breaking", "fragments")


def test_a_second_trajectory_from_the_same_start_is_judged_against_that_start():
    run = engine()
    for length in (1.00, 1.01):
        trajectory = run.new_trajectory()
        _, moved = walk(run, pair(0.74), pair(length), trajectory=trajectory)
        assert "bond_breaking" in moved.flags.names


def test_a_second_trajectory_from_the_same_start_books_the_same_jumps():
    run = engine(ScriptedGate(lambda number: number < 2), committee=ToyCommittee(perturbation=0.3))
    walk(run, pair(0.62))
    _, first = walk(run, pair(0.75), pair(0.76))
    _, second = walk(run, pair(0.75), pair(0.77))
    assert first.source is second.source is Source.COMMITTEE
    assert first.energy_jump == second.energy_jump != 0


def test_a_geometry_asked_again_after_an_error_counts_once():
    run = engine(always(), reference=ToyReference(fails=lambda atoms: atoms.positions[1, 2] > 0.9))
    trajectory = run.new_trajectory()
    run.evaluate(pair(0.74, momentum=0.1), trajectory)
    for _ in range(3):
        with pytest.raises(ReferenceNotConverged):
            run.evaluate(pair(0.95, momentum=0.1), trajectory)
    assert trajectory.monitor.state()["bonds"]["changed_for"] == [1]


def test_a_restored_run_goes_on_as_if_it_had_never_stopped():
    lengths = 0.74 + 0.1 * np.sin(np.arange(30))
    frames = [pair(length, momentum=0.1) for length in lengths]
    chosen = settings("uncertain", "unseen", "audit", audit_probability=0.3, budget=100)

    def fresh():
        return engine(
            chosen,
            committee=ToyCommittee(perturbation=0.05),
            reference=ToyReference(energy_offset_ev=OFFSET),
        )

    def plain(steps):
        return [{k: v for k, v in step.to_dict().items() if k != "seconds"} for step in steps]

    whole = plain(walk(fresh(), *frames))
    first = fresh()
    trajectory = first.new_trajectory()
    begun = plain(walk(first, *frames[:15], trajectory=trajectory))
    run_state, path_state = json.loads(json.dumps([first.state(), trajectory.state()]))
    second = fresh()
    second.restore(run_state)
    again = second.new_trajectory()
    again.restore(path_state)
    assert begun + plain(walk(second, *frames[15:], trajectory=again)) == whole
    assert second.run == first.run


def test_a_resumed_run_pays_for_the_calls_made_after_its_last_state(store):
    first = engine(always(budget=10), store=store)
    state = json.loads(json.dumps(first.state()))
    walk(first, pair(0.70), pair(0.71), pair(0.72))
    second = engine(always(budget=10), store=store)
    second.restore(state)
    assert second.gate.budget.spent == 3


class Remembering(ToyReference):
    """Has something of its own to carry over, and notes what it is told of."""

    def __init__(self):
        super().__init__()
        self.carried, self.recalled = {"labels": 0}, []

    def label(self, atoms):
        self.carried = {"labels": self.carried["labels"] + 1}
        return super().label(atoms)

    def state(self):
        return self.carried

    def restore(self, state):
        self.carried = state

    def recall(self, atoms, *, doubtful):
        self.recalled.append((atoms.positions.copy(), doubtful))


def test_a_resumed_reference_is_told_of_the_labels_made_after_its_last_state(store):
    frames = [pair(length) for length in (1.50, 1.51, 1.52, 1.53)]
    old = engine(always(), reference=Remembering(), store=store)
    walk(old, frames[3])  # another run's label: nothing to carry over
    first = engine(always(), reference=Remembering(), store=store)
    walk(first, frames[0])
    state = json.loads(json.dumps(first.state()))
    walk(first, frames[1])  # labelled, stored, and then killed
    second = engine(always(), reference=Remembering(), store=store)
    second.restore(state)
    assert second.reference.carried == {"labels": 1}
    walk(second, *frames)
    assert second.tally.reused == 3
    recalled = [positions for positions, _ in second.reference.recalled]
    np.testing.assert_array_equal(recalled, [frames[1].positions])
    assert second.reference.carried == {"labels": 2}  # the one nobody had labelled


def test_two_energies_apart_by_a_bond_are_the_physics_the_engine_was_given():
    # the whole way with EMT on both sides: nothing is added to what EMT says
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    far = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.8]])
    run = engine(
        always(), committee=MembersCommittee([EMT(), EMT()]), reference=AseReference(EMT())
    )
    near_step, far_step = walk(run, atoms, far)
    atoms.calc, far.calc = EMT(), EMT()
    want = far.get_potential_energy() - atoms.get_potential_energy()
    assert far_step.energy - near_step.energy == pytest.approx(want, abs=1e-12)


# a band in one pass


class Counting(ToyCommittee):
    """Counts passes and the frames in them."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def predict(self, atoms):
        self.passes.append(1)
        return super().predict(atoms)

    def predict_many(self, frames):
        self.passes.append(len(frames))
        return [super(Counting, self).predict(atoms) for atoms in frames]


def test_geometries_predicted_ahead_are_not_predicted_again_and_answer_the_same():
    frames = [pair(0.7 + 0.01 * number) for number in range(5)]
    alone = walk(engine(committee=ToyCommittee()), *frames)
    counting = Counting()
    run = engine(committee=counting)
    run.prefetch(frames)
    together = walk(run, *frames)
    assert counting.passes == [5]
    assert [step.energy for step in together] == [step.energy for step in alone]
    assert run.tally.geometries == 5
    run.prefetch(frames)
    assert counting.passes == [5, 0]


def test_a_geometry_outside_the_domain_is_not_predicted_ahead():
    committee = ToyCommittee(elements=frozenset({8}))
    run = engine(committee=committee)
    run.prefetch([pair(0.7)])
    (step,) = walk(run, pair(0.7))
    assert step.prediction is None
    assert step.source is Source.REFERENCE


def test_a_member_that_fails_ahead_is_asked_geometry_by_geometry():
    broken = pair(0.70)
    run = engine(committee=Failing(lambda atoms: bool(atoms == broken)))
    run.prefetch([broken, pair(0.72)])
    first, second = walk(run, broken, pair(0.72))
    assert first.prediction is None
    assert second.prediction is not None
