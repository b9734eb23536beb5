"""What every committee must pass; subclass it, say how to make one, and run."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from hybrid_calc.committee.prediction import Committee, Prediction
from hybrid_calc.errors import InputError, StructureError, UnknownElementError

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
NEVER_TRAINED_ON = "Xe"
"""An element; a committee that knows it names another one."""


@functools.cache
def made(contract: type[CommitteeContract]) -> Committee:
    """Make the committee of a contract once."""
    return contract.make()


def rattled(name: str, seed: int = 0) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    return atoms


def turned(atoms: Atoms) -> tuple[Atoms, np.ndarray]:
    """Return the structure turned, and the matrix R that turned it (row vectors times R.T)."""
    rotation, upper = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.sign(np.diag(upper))
    rotation *= np.sign(np.linalg.det(rotation))
    other = atoms.copy()
    other.positions = atoms.positions @ rotation.T
    other.set_cell(np.asarray(atoms.cell) @ rotation.T)
    return other, rotation


class CommitteeContract:
    """Shapes, finite numbers, invariance, slopes, determinism, typed refusals.

    A subclass gives `make`, or overrides the fixtures `committee` and `twin`
    where making one needs other fixtures (a trained model).  Tolerances are
    those of exact arithmetic; a float32 model says its own.
    """

    energy_tolerance = 1e-9  # eV, two ways to the same number
    force_tolerance = 1e-9  # eV/A, two ways to the same number
    step = 1e-4  # A, of finite differences
    slope_tolerance = 1e-6  # eV/A, of finite differences
    stranger = NEVER_TRAINED_ON

    @staticmethod
    def make() -> Committee:
        raise NotImplementedError

    @staticmethod
    def molecules() -> list[Atoms]:
        """Return structures inside the domain, the first one small."""
        return [rattled("H2O"), rattled("CH3CH2OH", 1), rattled("CH3CONH2", 2)]

    @staticmethod
    def crystal() -> Atoms:
        """Return a periodic structure inside the domain, where there is one."""
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.rattle(0.05, seed=4)
        return atoms

    @pytest.fixture
    def committee(self) -> Committee:
        return made(type(self))

    @pytest.fixture
    def twin(self) -> Committee:
        """Return a second committee, made the same way."""
        return type(self).make()

    @pytest.fixture
    def periodic(self, committee: Committee) -> Atoms:
        if not committee.info.domain.periodic:
            pytest.skip("this committee answers molecules only; the refusal is tested")
        return self.crystal()

    def assert_same(self, got: Prediction, want: Prediction) -> None:
        np.testing.assert_allclose(got.energies, want.energies, rtol=0, atol=self.energy_tolerance)
        np.testing.assert_allclose(got.forces, want.forces, rtol=0, atol=self.force_tolerance)

    def test_it_is_a_committee_of_at_least_two(self, committee):
        assert isinstance(committee, Committee)
        assert committee.info.size >= 2
        assert committee.info.name
        assert committee.info.identity

    def test_info_stays_the_same_and_a_twin_has_the_same_identity(self, committee, twin):
        before = committee.info
        committee.predict(self.molecules()[0])
        assert committee.info == before
        assert twin.info.identity == before.identity

    def test_answers_have_the_promised_shapes_and_are_finite_float64(self, committee):
        for atoms in self.molecules():
            answer = committee.predict(atoms)
            members = committee.info.size
            assert answer.energies.shape == (members,)
            assert answer.forces.shape == (members, len(atoms), 3)
            assert answer.stress is None, "a molecule has no stress"
            for array in (answer.energies, answer.forces):
                assert array.dtype == np.float64
                assert np.isfinite(array).all()
            if answer.descriptors is not None:
                assert len(answer.descriptors) == len(atoms)

    def test_members_disagree(self, committee):
        answer = committee.predict(self.molecules()[1])
        assert answer.forces.std(axis=0).max() > 0

    def test_the_same_question_gets_the_same_bits(self, committee):
        one, other = (committee.predict(self.molecules()[1]) for _ in range(2))
        assert np.array_equal(one.energies, other.energies)
        assert np.array_equal(one.forces, other.forces)

    def test_another_question_in_between_changes_nothing(self, committee):
        small, large = self.molecules()[:2]
        before = committee.predict(small)
        committee.predict(large)
        self.assert_same(committee.predict(small), before)

    def test_moving_the_molecule_changes_nothing(self, committee):
        atoms = self.molecules()[1]
        moved = atoms.copy()
        moved.positions += [1.3, -20.0, 7.7]
        self.assert_same(committee.predict(moved), committee.predict(atoms))

    def test_turning_the_molecule_turns_the_forces(self, committee):
        atoms = self.molecules()[1]
        other, rotation = turned(atoms)
        here, there = committee.predict(atoms), committee.predict(other)
        np.testing.assert_allclose(
            there.energies, here.energies, rtol=0, atol=self.energy_tolerance
        )
        np.testing.assert_allclose(
            there.forces, here.forces @ rotation.T, rtol=0, atol=self.force_tolerance
        )

    def test_renumbering_the_atoms_renumbers_the_answers(self, committee):
        atoms = self.molecules()[1]
        order = np.random.default_rng(5).permutation(len(atoms))
        here, there = committee.predict(atoms), committee.predict(atoms[order])
        np.testing.assert_allclose(
            there.energies, here.energies, rtol=0, atol=self.energy_tolerance
        )
        np.testing.assert_allclose(
            there.forces, here.forces[:, order], rtol=0, atol=self.force_tolerance
        )

    def test_descriptors_turn_and_renumber_with_the_atoms(self, committee):
        atoms = self.molecules()[1]
        here = committee.predict(atoms).descriptors
        if here is None:
            pytest.skip("this committee has no descriptors")
        order = np.random.default_rng(6).permutation(len(atoms))
        there = committee.predict(turned(atoms)[0][order]).descriptors
        np.testing.assert_allclose(there, here[order], rtol=0, atol=1e-5)

    def test_no_member_feels_a_net_force(self, committee):
        for atoms in self.molecules():
            net = committee.predict(atoms).forces.sum(axis=1)
            np.testing.assert_allclose(net, 0, atol=1e-5)

    def test_every_members_forces_are_minus_the_slope_of_its_energy(self, committee):
        atoms = self.molecules()[0]
        forces = committee.predict(atoms).forces
        frames = []
        for atom in range(len(atoms)):
            for axis in range(3):
                for sign in (1, -1):
                    frame = atoms.copy()
                    frame.positions[atom, axis] += sign * self.step
                    frames.append(frame)
        energies = np.array([answer.energies for answer in committee.predict_many(frames)])
        slopes = (energies[0::2] - energies[1::2]) / (2 * self.step)
        np.testing.assert_allclose(
            forces, -slopes.T.reshape(forces.shape), rtol=0, atol=self.slope_tolerance
        )

    def test_constraints_are_the_drivers_business(self, committee):
        atoms = self.molecules()[0]
        want = committee.predict(atoms)
        atoms.set_constraint(FixAtoms([0, 1]))
        self.assert_same(committee.predict(atoms), want)

    def test_many_answers_are_the_answers_one_by_one(self, committee):
        frames = self.molecules()
        answers = committee.predict_many(frames)
        assert len(answers) == len(frames)
        for answer, atoms in zip(answers, frames, strict=True):
            self.assert_same(answer, committee.predict(atoms))

    def test_no_questions_get_no_answers(self, committee):
        assert committee.predict_many([]) == []

    def test_the_structure_asked_about_is_left_alone(self, committee):
        atoms = self.molecules()[1]
        atoms.set_constraint(FixAtoms([0]))
        atoms.info["note"] = "mine"
        own = atoms.calc = SinglePointCalculator(atoms, energy=1.0)
        before = atoms.copy()
        committee.predict(atoms)
        committee.predict_many([atoms])
        assert atoms == before
        assert atoms.info == before.info
        assert set(atoms.arrays) == set(before.arrays)
        assert atoms.calc is own
        assert own.results == {"energy": 1.0}

    def test_what_nobody_can_compute_is_refused(self, committee):
        nan, infinite, flat, dummy, impossible = (self.molecules()[0] for _ in range(5))
        nan.positions[0, 0] = np.nan
        infinite.positions[1, 2] = np.inf
        flat.pbc = True
        dummy.numbers[0] = 0
        impossible.info["spin"] = 2
        for atoms in (Atoms(), nan, infinite, flat, dummy, impossible):
            with pytest.raises(StructureError):
                committee.predict(atoms)
            with pytest.raises(StructureError):
                committee.predict_many([self.molecules()[0], atoms])

    def test_an_unknown_element_is_refused_by_name(self, committee):
        if committee.info.domain.elements is None:
            pytest.skip("this committee takes every element")
        atoms = self.molecules()[0] + Atoms(self.stranger, [[0, 0, 4.0]])
        with pytest.raises(UnknownElementError, match=f"also has {self.stranger}"):
            committee.predict(atoms)

    def test_a_charge_outside_the_domain_is_refused(self, committee):
        charges = committee.info.domain.charges
        if charges is None:
            pytest.skip("this committee takes every charge")
        atoms = self.molecules()[0]
        atoms.info["charge"] = max(charges) + 2
        with pytest.raises(UnknownElementError, match="total charges"):
            committee.predict(atoms)

    def test_a_multiplicity_outside_the_domain_is_refused(self, committee):
        known = committee.info.domain.multiplicities
        if known is None:
            pytest.skip("this committee takes every multiplicity")
        atoms = self.molecules()[0]
        atoms.info["spin"] = next(odd for odd in (1, 3, 5, 7, 9) if odd not in known)
        with pytest.raises(UnknownElementError, match="multiplicities"):
            committee.predict(atoms)

    def test_a_cell_outside_the_domain_is_refused(self, committee):
        if committee.info.domain.periodic:
            pytest.skip("this committee takes periodic cells")
        atoms = self.molecules()[0]
        atoms.cell, atoms.pbc = [9, 9, 9], (True, False, False)
        with pytest.raises(StructureError, match="molecules only"):
            committee.predict(atoms)

    def test_a_refusal_changes_no_later_answer(self, committee):
        atoms = self.molecules()[0]
        want = committee.predict(atoms)
        bad = atoms.copy()
        bad.positions[0] = np.nan
        with pytest.raises(InputError):
            committee.predict(bad)
        self.assert_same(committee.predict(atoms), want)

    def test_a_wrapped_crystal_is_the_same_crystal(self, committee, periodic):
        moved = periodic.copy()
        moved.positions += [0.7, 5.0, -3.0]
        moved.wrap()
        self.assert_same(committee.predict(moved), committee.predict(periodic))

    def test_two_cells_have_twice_the_energy(self, committee, periodic):
        one, two = committee.predict(periodic), committee.predict(periodic * (1, 2, 1))
        np.testing.assert_allclose(
            two.energies, 2 * one.energies, rtol=0, atol=4 * self.energy_tolerance
        )

    def test_a_cell_that_is_not_periodic_changes_nothing(self, committee):
        atoms = self.molecules()[0]
        boxed = atoms.copy()
        boxed.cell = [3, 3, 3]
        self.assert_same(committee.predict(boxed), committee.predict(atoms))

    def test_every_members_stress_is_the_slope_of_its_energy(self, committee, periodic):
        answer = committee.predict(periodic)
        if answer.stress is None:
            pytest.skip("a member has no stress")
        assert answer.stress.shape == (committee.info.size, 6)
        for column, (row, col) in enumerate(VOIGT):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[row, col] += sign * self.step / 2
                strain[col, row] += sign * self.step / 2
                strained = periodic.copy()
                strained.set_cell(np.asarray(periodic.cell) @ (np.eye(3) + strain), True)
                energies.append(committee.predict(strained).energies)
            slope = (energies[0] - energies[1]) / (2 * self.step) / periodic.get_volume()
            np.testing.assert_allclose(
                answer.stress[:, column], slope, rtol=0, atol=self.slope_tolerance
            )

    def test_it_can_be_closed_twice(self, committee):
        committee.close()
        committee.close()
