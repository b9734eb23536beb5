"""Checks of a label, against rigid bodies worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from hybrid_calc.errors import ReferenceFailed
from hybrid_calc.reference.checks import MAX_NET_FORCE, checked_label, project_rigid, rigid_modes
from hybrid_calc.reference.level import LevelOfTheory

PLAIN = LevelOfTheory(program="toy")
PROJECTED = LevelOfTheory(program="toy", project_net_force=True)


def label_of(atoms, forces, *, level=PLAIN, energy=-1.0, **more):
    return checked_label(atoms, energy=energy, forces=forces, level=level, **more)


@pytest.mark.parametrize(
    ("name", "count"), [("H2O", 6), ("CH3CH2OH", 6), ("CO2", 5), ("N2", 5), ("H", 3)]
)
def test_molecule_has_six_rigid_modes_a_line_five_an_atom_three(name, count):
    positions = molecule(name).positions
    modes = rigid_modes(positions)
    assert modes.shape == (count, positions.size)
    np.testing.assert_allclose(modes @ modes.T, np.eye(count), atol=1e-12)


def test_line_in_no_special_direction_has_five_rigid_modes_far_from_the_origin():
    direction = np.array([1.0, 2.0, -0.5]) / math.sqrt(5.25)
    positions = 1000.0 + np.outer([0.0, 1.16, 2.32], direction)
    assert len(rigid_modes(positions)) == 5


def test_nearly_straight_molecule_still_has_six_rigid_modes():
    positions = np.array([[0, 0, -1.16], [0, 0.01, 0], [0, 0, 1.16]])
    assert len(rigid_modes(positions)) == 6


def test_uniform_force_is_projected_out():
    positions = molecule("H2O").positions
    np.testing.assert_allclose(project_rigid(positions, np.full((3, 3), 0.7)), 0, atol=1e-12)


def test_torque_is_projected_out():
    positions = molecule("CH3OH").positions
    centred = positions - positions.mean(axis=0)
    spin = np.cross([0.3, -0.2, 0.9], centred)
    np.testing.assert_allclose(project_rigid(positions, spin), 0, atol=1e-12)


def test_stretch_of_a_bond_is_left_alone():
    positions = np.array([[0.0, 0, 0], [0.6, 0.8, 0]])
    stretch = np.array([[-0.6, -0.8, 0], [0.6, 0.8, 0]])
    np.testing.assert_allclose(project_rigid(positions, stretch), stretch, atol=1e-12)


def test_projection_leaves_no_net_force_and_no_torque_and_is_done_once():
    positions = molecule("CH3CONH2").positions
    forces = np.random.default_rng(0).normal(size=positions.shape)
    once = project_rigid(positions, forces)
    centred = positions - positions.mean(axis=0)
    np.testing.assert_allclose(once.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cross(centred, once).sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(project_rigid(positions, once), once, atol=1e-12)
    assert np.linalg.norm(once) > 0.5 * np.linalg.norm(forces)


def test_force_on_a_lone_atom_vanishes():
    np.testing.assert_allclose(project_rigid(np.ones((1, 3)), np.ones((1, 3))), 0, atol=1e-12)


def test_good_answer_becomes_a_label_with_its_net_force():
    atoms = molecule("H2O")
    forces = np.array([[0.01, 0, 0], [0.02, 0, 0], [0, 0.04, 0]])
    label = label_of(atoms, forces, checks={"cycles": 7.0}, rung="diis", wall_seconds=1.5)
    assert label.checks == {"cycles": 7.0, "net_force_ev_per_ang": pytest.approx(0.05)}
    np.testing.assert_array_equal(label.forces, forces)
    assert (label.energy, label.rung, label.wall_seconds) == (-1.0, "diis", 1.5)


def test_level_that_projects_gets_forces_without_net_force():
    atoms = molecule("H2O")
    label = label_of(atoms, np.full((3, 3), 0.01), level=PROJECTED)
    np.testing.assert_allclose(label.forces, 0, atol=1e-12)
    assert label.checks["net_force_ev_per_ang"] == pytest.approx(0.03 * math.sqrt(3))


def test_lists_become_arrays():
    label = label_of(molecule("H2"), [[0, 0, 1], [0, 0, -1]], energy=np.float32(-2))
    assert label.forces.dtype == np.float64
    assert type(label.energy) is float


@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (3,), (9,), (3, 3, 1)])
def test_forces_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ReferenceFailed, match="shape"):
        label_of(molecule("H2O"), np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_number_that_is_not_finite_is_refused(bad):
    atoms = bulk("Cu")
    forces, stress = np.zeros((1, 3)), np.zeros(6)
    with pytest.raises(ReferenceFailed, match="not finite"):
        label_of(atoms, forces, energy=bad)
    with pytest.raises(ReferenceFailed, match="not finite"):
        label_of(atoms, forces + bad)
    with pytest.raises(ReferenceFailed, match="not finite"):
        label_of(atoms, forces, stress=np.where(np.arange(6) == 3, bad, stress))


def test_stress_that_is_not_six_numbers_is_refused():
    with pytest.raises(ReferenceFailed, match=r"stress of shape \(3, 3\)"):
        label_of(bulk("Cu"), np.zeros((1, 3)), stress=np.zeros((3, 3)))


def test_net_force_beyond_the_limit_is_refused_with_the_figure():
    atoms = molecule("H2O")
    forces = np.zeros((3, 3))
    forces[0] = [0.3, 0.0, 0.4]
    with pytest.raises(ReferenceFailed, match=r"add up to 0.5 eV/A, more than 0.1") as caught:
        label_of(atoms, forces, checks={"cycles": 3.0})
    assert caught.value.details == {"cycles": 3.0, "net_force_ev_per_ang": pytest.approx(0.5)}
    assert label_of(atoms, forces, max_net_force_ev_per_ang=0.6).energy == -1.0


def test_net_force_is_refused_before_projection_can_hide_it():
    with pytest.raises(ReferenceFailed, match="add up"):
        label_of(molecule("H2O"), np.full((3, 3), MAX_NET_FORCE), level=PROJECTED)


def test_crystal_may_feel_a_net_force():
    atoms = bulk("Cu", cubic=True)
    forces = np.full((4, 3), 0.5)
    label = label_of(atoms, forces, level=PROJECTED)
    np.testing.assert_array_equal(label.forces, forces)
    assert "net_force_ev_per_ang" not in label.checks


def test_label_of_one_atom_in_vacuum():
    assert label_of(Atoms("H"), np.zeros((1, 3)), level=PROJECTED).forces.shape == (1, 3)
