"""Labels from before: which of a store's belong to this molecule, and how they lie."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from scipy.spatial.transform import Rotation

from hybrid_calc.calculator import HybridCalculator
from hybrid_calc.committee.toy import ToyCommittee
from hybrid_calc.drivers.known import committee_for, known_labels
from hybrid_calc.drivers.neb import HybridNEB
from hybrid_calc.drivers.relax import HybridRelax
from hybrid_calc.drivers.settings import NebSettings, RelaxSettings
from hybrid_calc.drivers.shape import turn_onto
from hybrid_calc.gate.settings import GateSettings
from hybrid_calc.reference.toy import ToyReference
from tests.drivers.conftest import Reference, transfer

CHIRAL = np.array([[0, 0, 0], [0.76, 0, 0], [0, 1.2, 0], [0, 0, 1.4], [-0.9, -0.8, -0.7]])


@pytest.fixture
def bromide():
    return Atoms("CHFClBr", positions=1.3 * CHIRAL)


@pytest.fixture
def calculator(tmp_path):
    with HybridCalculator(ToyCommittee(), ToyReference(), store=tmp_path / "run.h5") as made:
        yield made


def turned(atoms, angle=0.7):
    copy = atoms.copy()
    rotation = Rotation.from_euler("xyz", [angle, -0.4, 1.1]).as_matrix()
    copy.positions = atoms.positions @ rotation.T + [1.0, -2.0, 0.5]
    return copy


def test_a_label_in_another_orientation_is_turned_with_its_forces(calculator, bromide):
    calculator.label(turned(bromide), "try")
    (known,) = known_labels(calculator, bromide, [bromide.positions])
    truth = ToyReference().label(bromide)
    assert known.positions == pytest.approx(bromide.positions, abs=1e-8)
    assert known.energy == pytest.approx(truth.energy, abs=1e-8)
    assert known.forces == pytest.approx(truth.forces, abs=1e-6)
    said = ToyCommittee().predict(bromide)
    assert known.prior_energy == pytest.approx(said.energy, abs=1e-8)
    assert known.prior_forces == pytest.approx(said.mean_forces, abs=1e-6)


def test_the_mirror_image_is_another_molecule(calculator, bromide):
    mirrored = bromide.copy()
    mirrored.positions[:, 0] *= -1
    calculator.label(mirrored, "try")
    assert known_labels(calculator, bromide, [bromide.positions]) == []


def test_labels_of_another_order_charge_or_conformer_are_not_used(calculator, bromide):
    other_order = bromide[[0, 2, 1, 3, 4]]
    charged = bromide.copy()
    charged.info |= {"charge": 2}
    far = bromide.copy()
    far.positions[4] *= 1.6
    for atoms in (other_order, charged, far):
        calculator.label(atoms, "try")
    assert known_labels(calculator, bromide, [bromide.positions]) == []
    assert len(known_labels(calculator, bromide, [far.positions])) == 1


def test_labels_along_the_path_are_found_too(calculator, bromide):
    far = bromide.copy()
    far.positions[4] *= 1.6
    calculator.label(far, "try")
    path = np.array([bromide.positions, far.positions])
    assert len(known_labels(calculator, bromide, [bromide.positions], path)) == 1


def test_where_atoms_are_fixed_labels_are_taken_as_they_lie(calculator, bromide):
    bromide.set_constraint(FixAtoms([0]))
    calculator.label(turned(bromide), "try")
    assert known_labels(calculator, bromide, [bromide.positions]) == []
    moved = bromide.copy()
    moved.set_constraint()
    moved.positions[3] += 0.1
    calculator.label(moved, "try")
    (known,) = known_labels(calculator, bromide, [bromide.positions])
    assert np.array_equal(known.positions, moved.positions)


def test_turning_never_mirrors_and_leaves_what_does_not_fit(bromide):
    fit = turn_onto(turned(bromide).positions, bromide.positions)
    assert fit.rmsd < 1e-8
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)
    mirrored = bromide.positions * [1, 1, -1]
    worse = turn_onto(mirrored, bromide.positions)
    assert np.linalg.det(worse.rotation) == pytest.approx(1.0)
    assert worse.rmsd > 0.3


def test_a_driver_made_from_a_calculator_uses_its_store_and_its_budget(calculator):
    start = Atoms("H2O", positions=[[0, 0.8, 0], [0, -0.8, 0], [0.6, 0, 0]])
    settings = RelaxSettings(fmax_ev_per_ang=0.01)
    first = HybridRelax.from_calculator(start, calculator, settings).run()
    assert first.confirmed
    assert first.reference_calls == calculator.engine.gate.budget.spent > 0
    near = turned(first.atoms)
    near.rattle(0.02, seed=1)
    again = HybridRelax.from_calculator(near, calculator, settings).run()
    assert again.confirmed
    assert again.reference_calls == 0


def test_what_happened_to_a_wanted_label_is_the_calculators_last_step(calculator, bromide):
    label = calculator.label(bromide, "a band")
    step = calculator.last_step
    assert step.label is label
    assert step.decision.reasons[0].policy == "acquisition"
    assert step.decision.reasons[0].detail == "a band"
    assert step.decision.audit_probability == 0.0


# --- outside the committee's domain


def test_outside_its_domain_the_committee_is_not_asked(bromide):
    knows_water = ToyCommittee(elements=frozenset({1, 8}))
    calculator = HybridCalculator(knows_water, ToyReference(), GateSettings())
    assert committee_for(calculator, bromide) is None
    result = HybridRelax.from_calculator(bromide, calculator).run()
    assert result.confirmed
    assert result.prior == "none"
    forces = ToyReference().label(result.atoms).forces
    assert np.linalg.norm(forces, axis=1).max() <= 0.05


def test_a_band_on_labels_alone_finds_the_barrier(ends):
    result = HybridNEB(*ends, None, Reference(transfer), NebSettings(images=7)).run()
    assert result.confirmed, result.missing
    assert result.highest.prior == "none"
    assert result.barrier == pytest.approx(0.8, abs=2e-3)
