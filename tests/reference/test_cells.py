"""Crystals solved by real PySCF with k-points, and what is refused."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import full_3x3_to_voigt_6_stress

from hybrid_calc.config.level import level_from_text
from hybrid_calc.errors import InputError, ReferenceFailed, StructureError
from hybrid_calc.reference.cells import CELL, k_points_of
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_backend import PySCFReference
from hybrid_calc.reference.recipes import ANI_1X_LEVEL

pytest.importorskip("pyscf")

COARSE = {"pseudopotential": "gth-pbe", "cutoff_hartree": 120.0, "k_point_density": 0.4}
LEVEL = LevelOfTheory(
    program="pyscf",
    functional="pbe",
    basis="gth-szv",
    convergence_hartree=1e-10,
    project_net_force=True,
    parameters={CELL: COARSE},
)
SILICON = {"cutoff_hartree": 30.0, "k_point_density": 0.8}
STEP = 0.01


def hydrogen():
    """Return H2 in a skewed cell, in general position: 1 x 1 x 2 k-points."""
    cell = [[3.2, 0.1, 0.0], [0.0, 3.1, 0.2], [0.1, 0.0, 2.5]]
    return Atoms("H2", positions=[[0.1, 0.2, 0.3], [0.5, 0.5, 0.85]], cell=cell, pbc=True)


@pytest.fixture(scope="module")
def reference():
    with closing(PySCFReference(LEVEL, wall_limit_s=300)) as one:
        yield one


def slopes(reference, atoms, along, strain=None):
    """Return the energy's slopes by a displacement (eV/A) and, on request, a strain (eV/A^3)."""
    by_step, by_strain = [], []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * STEP * along
        by_step.append(reference.label(moved).energy)
        if strain is None:
            continue
        strained = atoms.copy()
        change = np.eye(3) + sign * STEP / 10 * strain
        strained.set_cell(atoms.cell.array @ change, scale_atoms=True)
        by_strain.append(reference.label(strained).energy)
    step = (by_step[0] - by_step[1]) / (2 * STEP)
    if strain is None:
        return step, None
    return step, (by_strain[0] - by_strain[1]) / (2 * STEP / 10) / atoms.get_volume()


@pytest.mark.parametrize("spin", [1, 3])
def test_forces_and_stress_are_the_slopes_of_the_energy(reference, spin):
    atoms = hydrogen()
    if spin == 3:
        atoms.positions[1] += 0.4
        atoms.info["spin"] = 3
    along = np.array([[0.3, -0.2, 0.5], [-0.4, 0.3, 0.1]])
    strain = np.array([[0.5, 0.2, 0.0], [0.2, -0.3, 0.1], [0.0, 0.1, 0.8]])
    label = reference.label(atoms)
    step, by_strain = slopes(reference, atoms, along - along.mean(axis=0), strain)
    assert label.checks["k_points"] == 2
    assert abs(step) > 0.1
    assert -(label.forces * along).sum() == pytest.approx(step, abs=0.003)
    voigt = full_3x3_to_voigt_6_stress(strain) * np.array([1, 1, 1, 2, 2, 2])
    assert label.stress @ voigt == pytest.approx(by_strain, abs=1e-5)
    np.testing.assert_allclose(label.forces.sum(axis=0), 0, atol=1e-9)


def test_hybrids_have_forces_and_no_stress():
    atoms, along = hydrogen(), np.array([[0.3, -0.2, 0.5], [-0.3, 0.2, -0.5]])
    with closing(PySCFReference(replace(LEVEL, functional="pbe0"), wall_limit_s=300)) as reference:
        label = reference.label(atoms)
        step, _ = slopes(reference, atoms, along)
    assert label.stress is None
    assert -(label.forces * along).sum() == pytest.approx(step, abs=0.003)


def test_a_cell_turned_or_moved_has_the_same_answer(reference):
    atoms = hydrogen()
    label = reference.label(atoms)
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    turned = reference.label(atoms)
    assert turned.energy == pytest.approx(label.energy, abs=1e-4)
    np.testing.assert_allclose(
        np.linalg.norm(turned.forces, axis=1), np.linalg.norm(label.forces, axis=1), atol=1e-3
    )


def test_mesh_follows_the_cell():
    assert k_points_of(np.diag([3.0, 6.0, 100.0]), 2.0) == (5, 3, 1)


@pytest.mark.slow
def test_forces_of_silicon_are_the_slope_of_its_energy():
    atoms = bulk("Si", "diamond", 5.43)
    atoms.rattle(0.05, seed=1)
    along = np.array([[0.3, -0.2, 0.5], [-0.3, 0.2, -0.5]])
    level = replace(LEVEL, parameters={CELL: COARSE | SILICON})
    with closing(PySCFReference(level)) as reference:
        label = reference.label(atoms)
        step, by_strain = slopes(reference, atoms, along, np.eye(3))
    assert label.checks["k_points"] == 8
    assert -(label.forces * along).sum() == pytest.approx(step, abs=0.002)
    assert label.stress[:3].sum() == pytest.approx(by_strain, abs=2e-5)


def test_metals_are_refused():
    # A chain of equal distances: its two bands meet where the mesh has a point.
    chain = Atoms("H2", positions=[[0, 0, 0], [1, 0, 0]], cell=[2, 4, 4], pbc=True)
    coarse = replace(LEVEL, parameters={CELL: COARSE | {"cutoff_hartree": 10.0}})
    with (
        closing(PySCFReference(coarse, wall_limit_s=300)) as reference,
        pytest.raises(ReferenceFailed, match="metals need fractional occupations"),
    ):
        reference.label(chain)


def test_a_mesh_too_coarse_is_refused():
    level = replace(LEVEL, parameters={CELL: COARSE | {"cutoff_hartree": 30.0}})
    atoms = Atoms("FH", positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.9]], cell=[3.0] * 3, pbc=True)
    with (
        closing(PySCFReference(level, wall_limit_s=300)) as reference,
        pytest.raises(ReferenceFailed, match="raise cutoff_hartree"),
    ):
        reference.label(atoms)


def test_meta_gga_is_refused():
    with (
        closing(PySCFReference(replace(LEVEL, functional="r2scan"))) as reference,
        pytest.raises(ReferenceFailed, match="no gradients of r2scan"),
    ):
        reference.label(hydrogen())


def test_structure_and_level_must_be_of_one_kind(reference):
    with pytest.raises(StructureError, match="a level for cells"):
        reference.label(molecule("H2"))
    slab = hydrogen()
    slab.pbc = [True, True, False]
    with pytest.raises(StructureError, match="all three directions"):
        reference.label(slab)
    ion = hydrogen()
    ion.info["charge"], ion.info["spin"] = 1, 2
    with pytest.raises(StructureError, match="charged cell"):
        reference.label(ion)
    with (
        closing(PySCFReference(ANI_1X_LEVEL)) as molecular,
        pytest.raises(StructureError, match="molecules only"),
    ):
        molecular.label(hydrogen())


@pytest.mark.parametrize("wrong", [{"dispersion": "d3bj"}, {"solvent": "smd:water"}])
def test_what_has_no_gradient_in_a_cell_is_refused_at_once(wrong):
    with pytest.raises(InputError, match="no gradients"):
        PySCFReference(replace(LEVEL, **wrong))
    with pytest.raises(InputError, match="needs cutoff_hartree"):
        PySCFReference(replace(LEVEL, parameters={CELL: {"cutoff": 3}}))


def test_settings_give_the_level():
    text = (
        "{functional: pbe, basis: gth-szv, convergence_hartree: 1.0e-10, "
        "cell: {cutoff_hartree: 120, k_point_density: 0.4}}"
    )
    level = level_from_text(text)
    assert level == LEVEL
    finer = level_from_text(text.replace("120", "240"))
    assert finer.hash != level.hash
    assert finer.same_physics(level)


def test_pseudopotential_is_physics():
    other = replace(LEVEL, parameters={CELL: COARSE | {"pseudopotential": "gth-blyp"}})
    assert not other.same_physics(LEVEL)
