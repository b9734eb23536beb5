"""What every reference must pass; subclass it, say how to make one, and run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

from hybrid_calc.errors import StructureError
from hybrid_calc.reference.label import Reference
from hybrid_calc.reference.level import LevelOfTheory

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def rattled(name: str, seed: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def rotation(seed: int = 3) -> np.ndarray:
    """Return a rotation matrix that is about no axis of the coordinates."""
    matrix, upper = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix *= np.sign(np.diag(upper))
    return matrix * np.sign(np.linalg.det(matrix))


class ReferenceContract:
    """Shapes, finite numbers, a stable level, slopes, invariance, refusals, closing.

    A subclass gives `make`.  Tolerances are those of exact arithmetic; a
    reference with an integration grid or an iteration says its own.
    """

    energy_tolerance = 1e-9  # eV, the same energy after turning or renumbering
    force_tolerance = 1e-9  # eV/A, the same force after turning or renumbering
    step = 1e-4  # A, of finite differences
    slope_tolerance = 1e-6  # eV/A, of finite differences
    net_tolerance = 1e-9  # eV/A and eV, net force and net torque

    @staticmethod
    def make() -> Reference:
        raise NotImplementedError

    @staticmethod
    def structure() -> Atoms:
        """Return a small molecule off its equilibrium, so that every force is there."""
        return rattled("H2O")

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls):
        reference = cls.make()
        yield reference
        reference.close()

    @pytest.fixture
    def atoms(self) -> Atoms:
        return self.structure()

    def test_it_keeps_the_protocol(self, reference):
        assert isinstance(reference, Reference)

    def test_label_has_the_right_shapes_and_finite_numbers(self, reference, atoms):
        label = reference.label(atoms)
        assert type(label.energy) is float
        assert np.isfinite(label.energy)
        assert label.forces.shape == (len(atoms), 3)
        assert label.forces.dtype == np.float64
        assert np.isfinite(label.forces).all()
        assert label.stress is None
        assert label.wall_seconds >= 0

    def test_label_names_the_level_of_the_reference(self, reference, atoms):
        assert reference.label(atoms).level == reference.level

    def test_level_has_the_same_hash_in_another_instance(self, reference):
        other = self.make()
        assert other.level.hash == reference.level.hash
        other.close()

    def test_level_survives_json_with_its_hash(self, reference):
        text = json.dumps(reference.level.to_dict())
        assert LevelOfTheory.from_dict(json.loads(text)).hash == reference.level.hash

    def test_same_geometry_gets_the_same_label(self, reference, atoms):
        first, second = reference.label(atoms), reference.label(atoms)
        assert second.energy == pytest.approx(first.energy, abs=self.energy_tolerance)
        np.testing.assert_allclose(second.forces, first.forces, atol=self.force_tolerance)

    def test_label_does_not_depend_on_the_geometry_before(self, reference, atoms):
        first = reference.label(atoms)
        other = atoms.copy()
        other.positions *= 1.1
        reference.label(other)
        again = reference.label(atoms)
        assert again.energy == pytest.approx(first.energy, abs=self.energy_tolerance)
        np.testing.assert_allclose(again.forces, first.forces, atol=self.force_tolerance)

    @pytest.mark.parametrize("seed", [1, 2])
    def test_forces_are_minus_the_slope_of_the_energy(self, reference, atoms, seed):
        forces = reference.label(atoms).forces
        random = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        direction = forces / np.linalg.norm(forces) + random / np.linalg.norm(random)
        direction /= np.linalg.norm(direction)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * self.step * direction
            energies.append(reference.label(moved).energy)
        slope = (energies[0] - energies[1]) / (2 * self.step)
        along = float(np.sum(forces * direction))
        assert abs(along) > 30 * self.slope_tolerance, "the test needs a force to see"
        assert -slope == pytest.approx(along, abs=self.slope_tolerance)

    def test_moving_the_molecule_changes_nothing(self, reference, atoms):
        moved = atoms.copy()
        moved.positions += [3.7, -2.2, 11.3]
        here, there = reference.label(atoms), reference.label(moved)
        assert there.energy == pytest.approx(here.energy, abs=self.energy_tolerance)
        np.testing.assert_allclose(there.forces, here.forces, atol=self.force_tolerance)

    def test_turning_the_molecule_turns_the_forces(self, reference, atoms):
        matrix = rotation()
        turned = atoms.copy()
        turned.positions = atoms.positions @ matrix.T
        before, after = reference.label(atoms), reference.label(turned)
        assert after.energy == pytest.approx(before.energy, abs=self.energy_tolerance)
        np.testing.assert_allclose(
            after.forces, before.forces @ matrix.T, atol=self.force_tolerance
        )

    def test_renumbering_the_atoms_renumbers_the_forces(self, reference, atoms):
        order = np.arange(len(atoms))[::-1]
        before, after = reference.label(atoms), reference.label(atoms[order])
        assert after.energy == pytest.approx(before.energy, abs=self.energy_tolerance)
        np.testing.assert_allclose(after.forces, before.forces[order], atol=self.force_tolerance)

    def test_isolated_molecule_feels_no_net_force_and_no_torque(self, reference, atoms):
        forces = reference.label(atoms).forces
        centred = atoms.positions - atoms.positions.mean(axis=0)
        np.testing.assert_allclose(forces.sum(axis=0), 0, atol=self.net_tolerance)
        np.testing.assert_allclose(
            np.cross(centred, forces).sum(axis=0), 0, atol=self.net_tolerance
        )

    def test_structure_is_left_as_it_was(self, reference, atoms):
        atoms.set_constraint(FixAtoms([0]))
        before = atoms.copy()
        reference.label(atoms)
        assert atoms == before
        assert atoms.info == before.info
        assert set(atoms.arrays) == set(before.arrays)
        assert atoms.calc is None

    def test_constraint_does_not_hide_a_force(self, reference, atoms):
        free = reference.label(atoms).forces
        atoms.set_constraint(FixAtoms([0]))
        np.testing.assert_allclose(reference.label(atoms).forces, free, atol=self.force_tolerance)

    def test_empty_structure_is_refused(self, reference):
        with pytest.raises(StructureError, match="no atoms"):
            reference.label(Atoms())

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_position_that_is_not_finite_is_refused_by_its_atom(self, reference, atoms, value):
        atoms.positions[1, 2] = value
        with pytest.raises(StructureError, match=r"\[1\]"):
            reference.label(atoms)

    def test_dummy_atom_is_refused(self, reference, atoms):
        with pytest.raises(StructureError, match="dummy"):
            reference.label(atoms + Atoms("X", positions=[[0, 0, 5]]))

    def test_refusal_does_not_spoil_the_next_label(self, reference, atoms):
        before = reference.label(atoms)
        with pytest.raises(StructureError):
            reference.label(Atoms())
        after = reference.label(atoms)
        assert after.energy == pytest.approx(before.energy, abs=self.energy_tolerance)

    def test_closing_twice_does_nothing(self):
        other = self.make()
        other.close()
        other.close()


class PeriodicReferenceContract(ReferenceContract):
    """The same, and the stress of a crystal."""

    stress_tolerance = 1e-6  # eV/A^3, of finite differences

    @staticmethod
    def crystal() -> Atoms:
        """Return a rattled, strained crystal."""
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * [[1.03, 1, 1], [1, 0.98, 1], [1, 1, 1.01]], scale_atoms=True)
        atoms.rattle(0.05, seed=4)
        return atoms

    @pytest.mark.parametrize("component", range(6))
    def test_stress_is_the_slope_of_the_energy_by_strain(self, reference, component):
        atoms = self.crystal()
        row, column = VOIGT[component]
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * self.step / 2
            strain[column, row] += sign * self.step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell @ strain, scale_atoms=True)
            energies.append(reference.label(strained).energy)
        slope = (energies[0] - energies[1]) / (2 * self.step) / atoms.get_volume()
        label = reference.label(atoms)
        assert label.stress.shape == (6,)
        assert label.stress[component] == pytest.approx(slope, abs=self.stress_tolerance)

    def test_cell_without_volume_is_refused(self, reference, atoms):
        atoms.pbc = True
        with pytest.raises(StructureError, match="no volume"):
            reference.label(atoms)
