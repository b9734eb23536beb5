"""Temperature and displacement, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import thermalize_momenta

from hybrid_calc.errors import StructureError
from hybrid_calc.flags.report import Severity
from hybrid_calc.flags.thermal import (
    high_temperature,
    step_displacement,
    temperature,
)


def test_a_structure_without_momenta_is_not_in_dynamics():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    assert temperature(atoms) is None
    atoms.set_momenta(np.zeros((2, 3)))
    assert temperature(atoms) is None
    atoms.set_momenta([[0, 0, 0.1], [0, 0, 0]])
    assert temperature(atoms) > 0
    atoms.arrays["momenta"][0, 1] = np.nan
    with pytest.raises(StructureError, match="momenta are not finite"):
        temperature(atoms)


@pytest.mark.parametrize(("moved", "up"), [(0.29, False), (0.31, True)])
def test_an_atom_that_moves_0_3_angstrom_in_a_step_is_flagged(moved, up):
    before = np.zeros((2, 3))
    atoms = Atoms("H2", [[moved, 0, 0], [0, 0, 0]])
    assert bool(step_displacement(atoms, before, 0.3)) is up


def test_many_atoms_that_move_a_little_are_not_one_that_moves_far():
    atoms = Atoms("H9", [[0.2, 0, 0]] * 9)  # 0.6 A all together
    assert step_displacement(atoms, np.zeros((9, 3)), 0.3) == ()


def test_the_flag_names_the_atoms_furthest_first_in_angstrom():
    atoms = Atoms("H3", [[0.4, 0, 0], [0, 0, 0], [0, 3, 4]])
    (flag,) = step_displacement(atoms, np.zeros((3, 3)), 0.3)
    assert (flag.severity, flag.atoms, flag.unit) == (Severity.HARD, (2, 0), "A")
    assert flag.value == pytest.approx(5.0)


def test_wrapping_into_the_cell_is_no_displacement():
    atoms = Atoms("H", [[0.1, 0, 0]], cell=[10, 10, 10], pbc=True)
    before = np.array([[9.95, 0, 0]])
    assert step_displacement(atoms, before, 0.3) == ()
    atoms.pbc = False
    assert step_displacement(atoms, before, 0.3)[0].value == pytest.approx(9.85)


@pytest.mark.parametrize(("temperature", "up"), [(700.0, False), (700.1, True)])
def test_a_high_mean_temperature_is_a_soft_flag(temperature, up):
    flags = high_temperature(temperature, 700.0)
    assert bool(flags) is up
    assert all(flag.severity is Severity.SOFT for flag in flags)


def test_the_temperature_is_ases_with_and_without_constraints():
    atoms = molecule("CH3CH2OH")
    thermalize_momenta(atoms, 400, rng=np.random.default_rng(3))
    assert temperature(atoms) == pytest.approx(atoms.get_temperature(), rel=1e-12)
    atoms.set_constraint(FixAtoms([0, 1]))
    assert temperature(atoms) == pytest.approx(atoms.get_temperature(), rel=1e-12)
    atoms.set_masses([20.0] * len(atoms))
    assert temperature(atoms) == pytest.approx(atoms.get_temperature(), rel=1e-12)
