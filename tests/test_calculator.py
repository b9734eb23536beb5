"""What ASE sees of the calculator."""

from __future__ import annotations

import json
import threading

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.db import connect
from ase.mep import NEB
from ase.optimize import FIRE
from ase.outputs import all_outputs

from hybrid_calc import (
    AseReference,
    FrameStore,
    GateSettings,
    MembersCommittee,
    ToyCommittee,
    ToyReference,
)
from hybrid_calc.calculator import HybridHandle
from hybrid_calc.errors import BudgetExhausted, ReferenceNotConverged, StructureError
from hybrid_calc.gate.policy import Source
from tests.scripted import Charged, Failing, ScriptedGate, always, hybrid, pair, settings


def crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def with_calc(atoms, calc):
    atoms.calc = calc
    return atoms


@pytest.fixture(params=["committee", "reference"])
def calc(request):
    return hybrid(settings() if request.param == "committee" else always())


# results


@pytest.mark.parametrize("first", ["get_potential_energy", "get_forces"])
def test_energy_free_energy_and_forces_are_there_whatever_was_asked_first(calc, first):
    atoms = with_calc(molecule("H2O"), calc)
    getattr(atoms, first)()
    assert set(calc.results) == {"energy", "free_energy", "forces"}
    assert type(calc.results["energy"]) is float
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert calc.results["forces"].shape == (3, 3)
    assert calc.results["forces"].dtype == np.float64
    assert calc.engine.tally.geometries == 1


def test_a_crystal_has_a_stress_and_a_molecule_has_none(calc):
    assert with_calc(crystal(), calc).get_stress().shape == (6,)
    with pytest.raises(PropertyNotImplementedError):
        with_calc(molecule("H2O"), calc).get_stress()


def test_a_committee_with_a_member_without_stress_has_none():
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

    calc = hybrid(
        committee=MembersCommittee([EMT(), NoStress()]),
        reference=None,
    )
    atoms = with_calc(crystal(), calc)
    atoms.get_forces()
    assert "stress" not in calc.results
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def slab():
    atoms = crystal()
    atoms.center(vacuum=5, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def test_a_slab_has_a_stress_whoever_answers(calc):
    assert with_calc(slab(), calc).get_stress().shape == (6,)


def test_a_slab_has_a_stress_where_an_ase_calculator_is_the_reference():
    emt = MembersCommittee([EMT(), EMT()])
    calc = hybrid(always(), committee=emt, reference=AseReference(EMT()))
    assert with_calc(slab(), calc).get_stress().shape == (6,)


def test_every_key_of_the_results_is_one_that_ase_knows_and_exports(calc):
    for atoms in (molecule("H2O"), crystal()):
        with_calc(atoms, calc).get_forces()
        assert set(calc.results) <= set(all_outputs)
        exported = calc.export_properties()
        assert exported["energy"] == calc.results["energy"]


def test_changing_a_result_changes_no_step_and_no_later_answer(calc):
    atoms = with_calc(molecule("H2O"), calc)
    want = atoms.get_forces().copy()
    calc.results["forces"][:] = 99
    atoms.get_forces()[:] = 98
    assert np.array_equal(calc.last_step.forces, want)
    atoms.calc = calc.handle()
    assert np.array_equal(atoms.get_forces(), want)


def test_the_last_step_says_what_happened():
    calc = hybrid(always())
    atoms = with_calc(molecule("H2O"), calc)
    atoms.get_forces()
    step = calc.last_step
    assert step.source is step.decision.source is Source.REFERENCE
    assert step.prediction.energies.shape == (4,)
    assert step.flags.flags == ()
    assert str(step.regime) == "equilibrium H O"
    assert step.decision.reasons[0].policy == "unseen"
    assert np.array_equal(step.label.forces, step.forces)
    assert set(step.seconds) == {"flags", "committee", "gate", "reference"}


def test_the_structure_is_left_alone(calc):
    atoms = molecule("H2O")
    atoms.info["note"] = "mine"
    before = atoms.copy()
    with_calc(atoms, calc).get_forces()
    assert atoms == before
    assert atoms.info == before.info
    assert set(atoms.arrays) == set(before.arrays)


def test_the_property_list_is_the_class_own():
    assert HybridHandle.implemented_properties is not Calculator.implemented_properties
    assert set(HybridHandle.implemented_properties) == {
        "energy",
        "free_energy",
        "forces",
        "stress",
    }


def test_todict_says_who_answers_in_json(calc):
    said = json.loads(json.dumps(calc.todict()))
    assert said["committee"] == "toy"
    assert said["level_hash"] == calc.engine.reference.level.hash


@pytest.mark.parametrize("name", ["frames.traj", "frames.extxyz", "frames.json"])
def test_ase_writes_and_reads_what_was_computed(calc, name, tmp_path):
    atoms = with_calc(crystal(), calc)
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / name, atoms)
    again = ase.io.read(tmp_path / name)
    assert again.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(again.get_stress(), stress, atol=1e-7)


def test_an_ase_database_takes_it(calc, tmp_path):
    atoms = with_calc(molecule("H2O"), calc)
    energy = atoms.get_potential_energy()
    with connect(tmp_path / "frames.json") as database:
        database.write(atoms)
    assert connect(tmp_path / "frames.json").get(1).energy == pytest.approx(energy)


# changes


def geometries_after(change, atoms=None, **more):
    """Return the geometries computed and both energies, before and after a change."""
    calc = hybrid(**more)
    atoms = with_calc(atoms or crystal(), calc)
    before = atoms.get_potential_energy()
    assert atoms.get_potential_energy() == before
    assert calc.engine.tally.geometries == 1
    change(atoms)
    after = atoms.get_potential_energy()
    return calc.engine.tally.geometries, before, after


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_cell(atoms.cell * 1.05),
        lambda atoms: atoms.set_cell(atoms.cell + 1e-13),
        lambda atoms: atoms.set_pbc(False),
        lambda atoms: atoms.set_pbc((True, True, False)),
        lambda atoms: atoms.positions.__setitem__((0, 0), 0.01),
        lambda atoms: atoms.numbers.__setitem__(0, 47),
    ],
    ids=["cell", "cell by a hair", "no pbc", "one direction", "position", "number"],
)
def test_a_change_of_one_thing_alone_is_noticed(change):
    geometries, before, after = geometries_after(change)
    assert geometries == 2
    assert before != after


@pytest.mark.parametrize(
    ("change", "energy"),
    [
        (lambda atoms: atoms.info.update(charge=1, spin=2), 21.0),
        (lambda atoms: atoms.info.update(charge=2), 12.0),
        (lambda atoms: atoms.info.update(spin=3), 30.0),
    ],
    ids=["charge and spin", "charge", "spin"],
)
def test_a_change_of_charge_or_spin_alone_is_noticed(change, energy):
    geometries, before, after = geometries_after(change, molecule("H2O"), committee=Charged())
    assert (geometries, before, after) == (2, 10.0, energy)


def test_what_changed_is_named_as_ase_names_it():
    calc = hybrid()
    atoms = with_calc(molecule("H2O"), calc)
    assert set(all_changes) <= set(calc.check_state(atoms)), "nothing was computed yet"
    atoms.get_forces()
    assert calc.check_state(atoms) == []
    atoms.info["charge"] = 2
    assert calc.check_state(atoms) == ["charge"]
    atoms.info["spin"] = 3
    assert calc.check_state(atoms) == ["charge", "spin"]
    atoms.info.clear()
    atoms.positions[0] += 0.1
    atoms.cell = [9, 9, 9]
    assert set(calc.check_state(atoms)) == {"positions", "cell"}


def test_momenta_and_notes_are_no_changes():
    calc = hybrid()
    atoms = with_calc(molecule("H2O"), calc)
    atoms.get_forces()
    atoms.set_momenta(np.ones((3, 3)))
    atoms.info["note"] = "mine"
    assert calc.check_state(atoms) == []
    assert not calc.calculation_required(atoms, ["energy", "forces"])


def test_a_structure_with_another_number_of_atoms_is_noticed():
    calc = hybrid()
    for name in ("H2O", "CH3OH", "H2O"):
        assert len(with_calc(molecule(name), calc).get_forces()) == len(molecule(name))


def test_nothing_is_computed_where_ase_says_not_to():
    calc = hybrid()
    assert calc.get_property("energy", pair(0.7), allow_calculation=False) is None
    assert calc.engine.tally.geometries == 0


# errors


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.nan), "not finite"),
        (lambda atoms: atoms.set_pbc(True), "no volume"),
        (lambda atoms: atoms.info.update(charge="one"), "whole number"),
        (lambda atoms: atoms.info.update(charge=0.5), "whole number"),
        (lambda atoms: atoms.info.update(spin=2), "cannot have multiplicity"),
        (lambda atoms: atoms.info.update(spin=0), "whole number from 1"),
    ],
)
def test_what_cannot_be_computed_raises_and_leaves_no_stale_answer(break_it, words):
    calc = hybrid()
    atoms = with_calc(molecule("H2O"), calc)
    want = atoms.get_forces()
    broken = atoms.copy()
    break_it(broken)
    with_calc(broken, calc)
    for _ in range(2):
        with pytest.raises(StructureError, match=words):
            broken.get_forces()
    assert np.array_equal(atoms.get_forces(), want)


def test_after_a_failure_the_same_geometry_is_computed_not_remembered():
    failing = [True, True, False]
    calc = hybrid(always(), reference=ToyReference(fails=lambda atoms: failing.pop(0)))
    atoms = with_calc(molecule("H2O"), calc)
    for _ in range(2):
        with pytest.raises(ReferenceNotConverged):
            atoms.get_forces()
        assert calc.results == {}
    assert atoms.get_forces().any()
    assert calc.last_step.source is Source.REFERENCE


def test_a_spent_budget_reaches_the_driver_as_an_error():
    atoms = with_calc(molecule("H2O"), hybrid(always(budget=0)))
    with pytest.raises(BudgetExhausted):
        FIRE(atoms, logfile=None).run(steps=2)


def in_a_thread(work):
    """Run as ASE's threaded bands do: what is raised there is lost."""

    def swallow():
        try:
            work()
        except Exception:
            lost.append(True)

    lost = []
    thread = threading.Thread(target=swallow)
    thread.start()
    thread.join()
    return bool(lost)


def test_an_error_in_another_thread_is_raised_again_at_the_next_use():
    calc = hybrid(always(), reference=ToyReference(fails=lambda atoms: True))
    atoms = with_calc(molecule("H2O"), calc)
    assert in_a_thread(atoms.get_forces)
    with pytest.raises(ReferenceNotConverged):
        calc.check_state(atoms)


def test_an_error_is_raised_again_even_where_a_later_answer_would_be_there():
    failing = [True, False]
    calc = hybrid(always(), reference=ToyReference(fails=lambda atoms: failing.pop(0)))
    atoms = with_calc(molecule("H2O"), calc)
    assert in_a_thread(atoms.get_forces)
    assert not in_a_thread(atoms.get_forces)
    with pytest.raises(ReferenceNotConverged):
        atoms.get_potential_energy()
    assert atoms.get_forces().any(), "it is raised once"


def test_an_error_in_the_main_thread_is_raised_once():
    failing = [True, False]
    calc = hybrid(always(), reference=ToyReference(fails=lambda atoms: failing.pop(0)))
    atoms = with_calc(molecule("H2O"), calc)
    with pytest.raises(ReferenceNotConverged):
        atoms.get_forces()
    assert atoms.get_forces().any()


def inside(atoms):
    """Tell whether this is an image between the two end points of `failing_band`."""
    return 0.72 < atoms.positions[1, 2] < 0.88


def failing_band(calc):
    """A threaded band of five images over one engine, end points included."""
    first, last = pair(0.7), pair(0.9)
    images = [first, *[first.copy() for _ in range(3)], last]
    for image in images:
        image.calc = calc.handle()
    band = NEB(images, method="improvedtangent", parallel=True, allow_shared_calculator=False)
    band.interpolate()
    return band, images


# ASE's band runs its images in threads that do not catch
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_an_image_is_raised_at_the_next_use_of_that_image():
    calc = hybrid(committee=Failing(inside), reference=ToyReference(fails=lambda atoms: True))
    band, images = failing_band(calc)
    band.get_forces()
    for image in images[1:-1]:
        with pytest.raises(ReferenceNotConverged):
            image.get_potential_energy()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_an_image_stops_the_optimisation_of_a_threaded_band():
    calc = hybrid(committee=Failing(inside), reference=ToyReference(fails=lambda atoms: True))
    band, _ = failing_band(calc)
    band.get_forces()
    with pytest.raises(ReferenceNotConverged):
        band.get_forces()


# handles


def test_handles_share_committee_reference_store_and_answers():
    calc = hybrid(always())
    energies = [with_calc(molecule("H2O"), calc.handle()).get_potential_energy() for _ in range(3)]
    assert len(set(energies)) == 1
    assert calc.engine.reference.calls == 1


def test_a_handle_of_a_handle_is_over_the_same_engine():
    calc = hybrid()
    assert calc.handle().handle().engine is calc.engine


def test_two_handles_have_their_own_memory_of_bonds():
    calc = hybrid()
    one, other = calc.handle(), calc.handle()
    with_calc(pair(0.74), one).get_forces()
    with_calc(pair(1.00), other).get_forces()
    with_calc(pair(1.01), other).get_forces()
    with_calc(pair(1.02), one).get_forces()
    assert other.last_step.flags.names == ()
    assert one.last_step.flags.names == ("bond_breaking", "fragments")


def test_two_handles_have_their_own_conserved_shift():
    calc = hybrid(
        ScriptedGate(lambda number: number in {0, 2}), committee=ToyCommittee(perturbation=0.3)
    )
    one, other = calc.handle(), calc.handle()
    for length in (0.62, 0.65, 0.70):  # reference, committee, reference
        with_calc(pair(length), one).get_forces()
    with_calc(pair(0.75), other).get_forces()
    assert one.conserved_shift != 0
    assert other.conserved_shift == calc.conserved_shift == 0


def test_start_says_which_geometry_has_the_bonds_that_count():
    calc = hybrid()
    calc.start(pair(0.74))
    with_calc(pair(1.0), calc).get_forces()
    assert "bond_breaking" in calc.last_step.flags.names
    assert calc.engine.tally.geometries == 1


# opening and closing


def test_a_with_block_brings_the_store_up_to_date(tmp_path):
    path = tmp_path / "run.h5"
    with hybrid(always(), store=str(path)) as calc:
        with_calc(pair(0.7), calc).get_forces()
        assert not path.exists()
    assert path.exists()
    assert len(FrameStore(path)) == 1


def test_every_step_is_told_to_whoever_asked():
    seen = []
    calc = hybrid(on_step=seen.append)
    for length in (0.7, 0.8, 0.7):
        with_calc(pair(length), calc).get_forces()
    assert [step.index for step in seen] == [0, 1]


def test_a_gate_may_be_given_as_settings_as_a_gate_or_not_at_all():
    gate = ScriptedGate(lambda number: False)
    assert hybrid(gate).engine.gate is gate
    chosen = GateSettings(force_tolerance_ev_per_ang=0.7)
    assert hybrid(chosen).engine.gate.settings is chosen


def test_one_atom_is_a_structure_too(calc):
    atoms = with_calc(Atoms("He"), calc)
    assert atoms.get_potential_energy() == 0
    assert not atoms.get_forces().any()
