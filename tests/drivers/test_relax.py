"""A minimum confirmed by the reference."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.toy import ToyCommittee
from hybrid_calc.drivers.labelling import LabelBook, ReferenceCalculator, surface_label
from hybrid_calc.drivers.relax import HybridRelax
from hybrid_calc.drivers.saddle import modes_at
from hybrid_calc.drivers.settings import RelaxSettings
from hybrid_calc.drivers.shape import part_clashes
from hybrid_calc.drivers.vibrations import SOFT_INVCM, Vibrations, vibrations_of
from hybrid_calc.errors import BudgetExhausted, InputError, ReferenceFailed, StructureError
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.frames import FrameStore
from tests.drivers.conftest import (
    Reference,
    cluster,
    committee_of,
    distance,
    hop,
    killed_and_resumed,
    numerical,
    transfer,
)


def near(positions):
    return cluster(positions, scale=1.03)


def far(positions):
    return cluster(positions, scale=1.1)


def plain_calls(atoms, fmax):
    """Reference calls of plain BFGS."""
    reference = Reference(cluster)
    atoms = atoms.copy()
    atoms.calc = ReferenceCalculator(LabelBook(atoms, committee_of(near), reference), "plain")
    BFGS(atoms, logfile=None).run(fmax=fmax)
    return len(reference.asked)


@pytest.mark.parametrize("fmax", [0.05, 0.01])
def test_minimum_is_confirmed_by_the_reference_itself(start, fmax):
    reference = Reference(cluster)
    result = HybridRelax(
        start, committee_of(near), reference, RelaxSettings(fmax_ev_per_ang=fmax)
    ).run()
    assert result.confirmed
    assert result.missing == ""
    assert result.method == "surface"
    forces = numerical(cluster, result.atoms.positions)[1]
    assert np.linalg.norm(forces, axis=1).max() <= fmax
    assert result.reference_calls == len(reference.asked) < plain_calls(start, fmax)


def test_an_exact_committee_needs_one_call(start):
    reference = Reference(cluster)
    result = HybridRelax(start, committee_of(cluster), reference).run()
    assert result.confirmed
    assert len(reference.asked) == 1


def test_no_label_is_asked_twice(start):
    reference = Reference(cluster)
    settings = RelaxSettings(fmax_ev_per_ang=0.002, max_labels=2)
    HybridRelax(start, committee_of(near), reference, settings).run()
    assert reference.repeats() == 0


def test_a_frozen_atom_stays(start):
    start.set_constraint(FixAtoms([0, 3]))
    reference = Reference(cluster)
    result = HybridRelax(start, committee_of(near), reference).run()
    assert result.confirmed
    for one in [*reference.asked, result.atoms.positions]:
        assert np.array_equal(one[[0, 3]], start.positions[[0, 3]])


def test_a_hole_in_the_committee_is_not_fallen_into(start):
    def with_a_hole(positions):
        return near(positions) - 50 * np.exp(-((distance(positions, 0, 1) / 0.8) ** 2))

    reference = Reference(cluster)
    result = HybridRelax(start, committee_of(with_a_hole), reference).run()
    assert result.confirmed
    # 0.65 times two covalent radii of carbon, 0.76 A each.
    for one in reference.asked:
        assert distance(one, 0, 1) > 0.988


def test_atoms_that_clash_at_the_start_are_parted_first(start):
    start.positions[1] = start.positions[0] + [0.4, 0.0, 0.0]
    before = start.positions.copy()
    reference = Reference(cluster)
    result = HybridRelax(start, committee_of(near), reference).run()
    assert result.confirmed
    assert result.method == "surface"
    assert np.array_equal(start.positions, before)
    start.set_constraint(FixAtoms([0]))
    parted = part_clashes(start.numbers, start.positions, [0])
    assert np.array_equal(parted[0], before[0])
    # 0.85 times two covalent radii of carbon, 0.76 A each, along the line they were on.
    assert parted[1] == pytest.approx(before[0] + [1.292, 0.0, 0.0])
    assert np.array_equal(part_clashes(start.numbers, parted), parted)


def test_after_the_cap_plain_bfgs_finishes_the_work(start):
    reference = Reference(cluster)

    def nonsense(positions):
        return np.sin(7 * positions).sum(axis=(-1, -2))

    settings = RelaxSettings(max_labels=1, fmax_ev_per_ang=0.01)
    result = HybridRelax(start, committee_of(nonsense), reference, settings).run()
    assert result.method == "reference"
    assert result.confirmed
    assert result.fmax <= 0.01


def test_a_spent_budget_gives_the_best_so_far_unconfirmed(start):
    result = HybridRelax(start, committee_of(near), Reference(cluster, budget=1)).run()
    assert not result.confirmed
    assert "spent" in result.missing
    assert result.reference_calls == 1


def test_no_budget_at_all_is_an_error(start):
    with pytest.raises(BudgetExhausted):
        HybridRelax(start, committee_of(near), Reference(cluster, budget=0)).run()


def test_one_failure_of_the_reference_is_survived(start):
    reference, failed = Reference(cluster), []

    def fragile(atoms, reason):
        if len(reference.asked) == 1 and not failed:
            failed.append(reason)
            raise ReferenceFailed("no convergence")
        return reference(atoms, reason)

    result = HybridRelax(
        start, committee_of(near), fragile, RelaxSettings(fmax_ev_per_ang=0.01)
    ).run()
    assert failed == ["acquisition"]
    assert result.confirmed


def test_resume_after_a_kill_gives_the_same_result(start):
    settings = RelaxSettings(fmax_ev_per_ang=0.005)
    whole = HybridRelax(start, committee_of(near), Reference(cluster), settings).run()
    result, asked = killed_and_resumed(
        lambda ask, **more: HybridRelax(start, committee_of(near), ask, settings, **more),
        cluster,
        budget=2,
    )
    assert asked == whole.reference_calls
    assert np.array_equal(result.atoms.positions, whole.atoms.positions)


def test_known_labels_of_this_conformer_are_used_and_cost_nothing(start):
    first = HybridRelax(start, committee_of(near), Reference(cluster)).run()
    start.positions = first.atoms.positions + np.random.default_rng(2).normal(0, 0.05, (5, 3))
    reference = Reference(cluster)
    again = HybridRelax(start, committee_of(near), reference, known=first.labels).run()
    assert again.confirmed
    assert again.reference_calls == 0
    assert reference.asked == []


def test_labels_of_another_conformer_are_not_used(start):
    first = HybridRelax(start, committee_of(near), Reference(cluster)).run()
    start.positions[0] += [0.0, 0.0, 1.5]
    driver = HybridRelax(start, committee_of(near), Reference(cluster), known=first.labels)
    assert driver.book.labels == []


@pytest.mark.parametrize("aside", [0.0, 0.004, 0.1])
@pytest.mark.parametrize("slope", [0.8, 1.2])
def test_a_stored_saddle_is_not_taken_for_the_minimum(aside, slope):
    def guess(positions):
        return slope * transfer(positions)

    energy, forces = numerical(transfer, hop(0.0))
    assert np.linalg.norm(forces, axis=1).max() < 0.01
    atoms = Atoms("CCH", positions=hop(aside))
    stored = surface_label(atoms, committee_of(guess), hop(0.0), energy=energy, forces=forces)
    reference = Reference(transfer)
    result = HybridRelax(atoms, committee_of(guess), reference, known=[stored]).run()
    assert result.confirmed, result.missing
    assert result.reference_calls == len(reference.asked) > 0
    # The saddle is at 0.8 eV, both minima at zero.
    assert result.atoms.get_potential_energy() == pytest.approx(0.0, abs=0.01)


def test_a_stored_minimum_that_the_surface_takes_for_a_saddle_is_believed():
    """A label along the mode decides, not the committee, which sees a hill there."""

    def hill(positions):
        s = distance(positions, 0, 2) - distance(positions, 1, 2)
        return transfer(positions) - 6.0 * (s - 1.0) ** 2

    energy, forces = numerical(transfer, hop(1.0))
    atoms = Atoms("CCH", positions=hop(1.0))
    stored = surface_label(atoms, committee_of(hill), hop(1.0), energy=energy, forces=forces)
    reference = Reference(transfer)
    driver = HybridRelax(atoms, committee_of(hill), reference, known=[stored])
    assert modes_at(atoms, driver.book.surface(), hop(1.0))[0][0] < -0.05
    result = driver.run()
    assert result.confirmed, result.missing
    assert len(reference.asked) == 1
    assert np.array_equal(result.atoms.positions, hop(1.0))


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_run_killed_in_the_middle_of_a_retreat_goes_on_the_same_way(start, kept):
    """Two of its proposals are refused; what was refused is remembered with the labels."""

    def driver_of(fails):
        def make(ask, **more):
            def label(atoms, reason):
                if any(np.abs(atoms.positions - one).max() < 1e-9 for one in fails):
                    raise ReferenceFailed("no convergence")
                return ask(atoms, reason)

            return HybridRelax(start, committee_of(far), label, **more)

        return make

    plain = Reference(cluster)
    driver_of([])(plain).run()
    fails = plain.asked[1:2]
    whole = Reference(cluster)
    expected = driver_of(fails)(whole).run()
    assert expected.confirmed
    result, asked = killed_and_resumed(driver_of(fails), cluster, budget=kept)
    assert asked == len(whole.asked)
    assert np.array_equal(result.atoms.positions, expected.atoms.positions)


def stiff(positions):
    """At the minimum of `shrunken` its forces are beyond sense: over 15 eV/A."""
    return 20 * cluster(positions)


def shrunken(positions):
    return cluster(positions, scale=0.75)


@pytest.mark.parametrize("kept", [1, 2, 4, 7])
def test_a_run_killed_before_its_first_sensible_label_goes_on_the_same_way(start, kept):
    whole = Reference(stiff)
    expected = HybridRelax(start, committee_of(shrunken), whole).run()
    assert expected.confirmed
    assert np.linalg.norm(numerical(stiff, whole.asked[0])[1], axis=1).max() > 15
    result, asked = killed_and_resumed(
        lambda ask, **more: HybridRelax(start, committee_of(shrunken), ask, **more),
        stiff,
        budget=kept,
    )
    assert asked == len(whole.asked)
    assert np.array_equal(result.atoms.positions, expected.atoms.positions)
    assert result.prior == expected.prior


def test_a_finished_run_that_is_resumed_asks_nothing_and_says_the_same(start):
    saved = []
    whole = HybridRelax(start, committee_of(near), Reference(cluster), save=saved.append).run()
    driver = HybridRelax(start, committee_of(near), Reference(cluster, budget=0))
    driver.restore(json.loads(json.dumps(saved[-1])))
    result = driver.run()
    assert result.confirmed
    assert result.prior == whole.prior
    assert np.array_equal(result.atoms.positions, whole.atoms.positions)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"schema": 1}, "another version"), ({"starts": [[[0.0, 0.0, 0.0]] * 5]}, "another geometry")],
)
def test_a_state_of_another_run_is_refused(start, change, words):
    driver = HybridRelax(start, committee_of(near), Reference(cluster))
    with pytest.raises(InputError, match=words):
        driver.restore(driver.state() | change)


@pytest.mark.parametrize("optimizer", ["LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "FIRE"])
def test_other_optimisers_lead_to_the_same_minimum(start, optimizer):
    plain = HybridRelax(start, committee_of(near), Reference(cluster)).run()
    reference = Reference(cluster)
    settings = RelaxSettings(optimizer=optimizer)
    result = HybridRelax(start, committee_of(near), reference, settings).run()
    assert result.confirmed, result.missing
    assert result.method == "surface"
    energies = [one.atoms.get_potential_energy() for one in (plain, result)]
    assert energies[1] == pytest.approx(energies[0], abs=2e-3)
    assert reference.repeats() == 0


def farthest_proposal(start, **limits):
    """Largest displacement, A, of a proposal from the best label before it, without a committee."""
    settings = RelaxSettings(fmax_ev_per_ang=0.01, **limits)
    result = HybridRelax(start, None, Reference(cluster), settings).run()
    proposals = result.labels[: settings.max_labels]
    moved = []
    for k, label in enumerate(proposals[1:], start=1):
        best = min(proposals[:k], key=lambda one: one.energy)
        moved.append(np.linalg.norm(label.positions - best.positions, axis=1).max())
    return max(moved)


def test_a_proposal_stays_near_the_label_it_started_from(start):
    start.rattle(0.3, seed=3)
    free = farthest_proposal(start, max_displacement_ang=9.0, max_std_ev=9.0)
    assert free > 0.3
    # It ends with the first step, of 0.1 A, beyond the limit.
    assert farthest_proposal(start, max_displacement_ang=0.15, max_std_ev=9.0) <= 0.25
    assert farthest_proposal(start, max_displacement_ang=9.0, max_std_ev=1e-6) <= 0.1 + 1e-9
    short = farthest_proposal(start, max_displacement_ang=9.0, max_std_ev=1e-6, max_step_ang=0.03)
    assert short <= 0.03 + 1e-9


@pytest.mark.parametrize("source", ["surface", "reference"])
def test_frequencies_of_a_minimum_are_those_of_its_hessian(start, source):
    settings = RelaxSettings(fmax_ev_per_ang=0.01, frequencies=source)
    result = HybridRelax(start, committee_of(near), Reference(cluster), settings).run()
    assert result.confirmed
    found = result.vibrations
    assert len(found.frequencies) == 9
    assert found.imaginary == 0
    # hbar omega in eV is 1 / 8065.54 of the wavenumber
    assert found.zero_point_energy == pytest.approx(found.frequencies.sum() / 8065.54 / 2, rel=1e-4)


def test_the_softest_mode_is_the_surfaces_and_costs_no_label(start):
    driver = HybridRelax(start, committee_of(near), Reference(cluster), RelaxSettings())
    assert driver.softest_mode() is None
    calls = driver.run().reference_calls
    softest = driver.softest_mode()
    assert driver.book.asked == calls
    settings = RelaxSettings(frequencies="surface")
    result = HybridRelax(start, committee_of(near), Reference(cluster), settings).run()
    assert softest == pytest.approx(result.vibrations.frequencies[0])


@pytest.mark.parametrize(
    ("source", "lowest", "confirmed"),
    [("surface", -80, True), ("surface", -200, False), ("reference", -80, False),
     ("reference", -30, True)],
)  # fmt: skip
def test_a_soft_mode_of_the_surface_is_no_saddle(start, source, lowest, confirmed, monkeypatch):
    frequencies = np.array([lowest, 900.0, 1000.0])
    imaginary = int((frequencies < -SOFT_INVCM).sum())
    found = Vibrations(frequencies=frequencies, zero_point_energy=0.1, imaginary=imaginary)
    monkeypatch.setattr("hybrid_calc.drivers.relax.vibrations_of", lambda *_: found)
    settings = RelaxSettings(frequencies=source)
    result = HybridRelax(start, committee_of(near), Reference(cluster), settings).run()
    assert result.confirmed is confirmed
    assert bool(result.missing) is not confirmed


@pytest.mark.parametrize(("fmax", "noise"), [(0.1, 5e-3), (0.05, 5e-3), (0.01, 1e-3)])
def test_forces_are_taken_for_no_noisier_than_a_tenth_of_the_target(fmax, noise):
    process = RelaxSettings(fmax_ev_per_ang=fmax).process
    assert process.force_noise_ev_per_ang == pytest.approx(noise)


def test_two_atoms_vibrate_at_the_root_of_stiffness_over_reduced_mass():
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    stiff = np.zeros((6, 6))
    stiff[np.ix_([2, 5], [2, 5])] = 35.0 * np.array([[1, -1], [-1, 1]])
    # sqrt(35 eV/A^2 / 0.504 amu) in 1/cm: 521.47 of sqrt(eV/A^2/amu)
    wanted = 521.47 * np.sqrt(35.0 / 0.504)
    assert vibrations_of(atoms, atoms.positions, stiff).frequencies == pytest.approx(
        [wanted], rel=1e-3
    )
    assert vibrations_of(atoms, atoms.positions, -stiff).imaginary == 1


def test_a_periodic_structure_is_refused(start):
    start.set_cell([9, 9, 9])
    start.pbc = True
    with pytest.raises(StructureError, match="driver: ase"):
        HybridRelax(start, committee_of(near), Reference(cluster))


def test_labels_of_a_driver_go_through_gate_budget_and_store(tmp_path):
    store = FrameStore(tmp_path / "run.h5")
    calc = HybridCalculator(ToyCommittee(), ToyReference(), GateSettings(budget=30), store)
    start = molecule("H2O")
    result = HybridRelax(start, calc.engine.committee.predict_many, calc.label).run()
    assert result.confirmed
    assert result.reference_calls == calc.engine.gate.budget.spent == len(store)
    for record in store:
        assert "acquisition" in [policy for policy, _ in record.meta["reasons"]]
    calc.close()


def test_a_driver_stops_with_the_budget_and_says_what_is_missing(tmp_path):
    calc = HybridCalculator(
        ToyCommittee(perturbation=0.5), ToyReference(), GateSettings(budget=1, audit_reserve=0)
    )
    start = molecule("H2O")
    start.rattle(0.2, seed=0)
    result = HybridRelax(start, calc.engine.committee.predict_many, calc.label).run()
    assert not result.confirmed
    assert "budget" in result.missing
