"""Optimisers, saddle search and vibrations: the same path as with a plain calculator."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate
from ase.optimize import BFGS, FIRE, LBFGSLineSearch
from ase.vibrations import Vibrations

from hybrid_calc import FrameStore
from tests.flow.jobs import hop, hybrid_emt, still_water
from tests.scripted import Plain, always, hybrid

OPTIMISERS = [BFGS, FIRE, LBFGSLineSearch]


def relax(optimiser, calc, atoms=None):
    atoms = atoms or still_water()
    atoms.calc = calc
    converged = optimiser(atoms, logfile=None).run(fmax=0.01, steps=200)
    return atoms, converged


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_optimiser_walks_the_references_path(optimiser):
    want, converged = relax(optimiser, Plain())
    got, _ = relax(optimiser, hybrid(always()))
    assert converged
    assert np.array_equal(got.positions, want.positions)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_one_decision_and_one_record_per_geometry_trial_points_included(optimiser, tmp_path):
    plain = Plain()
    relax(optimiser, plain)
    with FrameStore(tmp_path / "run.h5") as store:
        calc = hybrid(always(), store=store)
        relax(optimiser, calc)
        asked = len(plain.asked)
        assert calc.engine.tally.geometries == calc.engine.reference.calls == len(store) == asked


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_committee_alone_relaxes_to_its_own_minimum(optimiser):
    atoms, converged = relax(optimiser, hybrid())
    assert converged
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01
    assert atoms.calc.engine.reference.calls == 0


def test_a_relaxation_has_no_temperature_and_is_classed_by_its_geometry():
    atoms, _ = relax(BFGS, hybrid())
    assert atoms.calc.last_step.flags.mean_temperature is None
    # Lennard-Jones pulls the O-H bonds to its own length
    assert atoms.calc.last_step.flags.names == ("strained_bond",)
    assert atoms.calc.last_step.regime.name == "high-energy"


def test_an_adsorbate_relaxes_with_its_slab_fixed():
    want, _ = relax(BFGS, EMT(), hop())
    got, converged = relax(BFGS, hybrid_emt(), hop())
    assert converged
    assert np.array_equal(got.positions, want.positions)
    fixed = got.constraints[0].index
    assert np.array_equal(got.positions[fixed], hop().positions[fixed])


@pytest.mark.parametrize("gate", [None, always()], ids=["committee", "reference"])
def test_a_cell_relaxes_by_its_stress(gate):
    def relaxed(calc):
        atoms = bulk("Cu", a=3.7)
        atoms.calc = calc
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001, steps=50)
        return atoms

    want, got = relaxed(EMT()), relaxed(hybrid_emt(gate))
    np.testing.assert_allclose(got.cell, want.cell, atol=1e-12)
    assert np.abs(got.get_stress()).max() < 1e-4


def test_vibrations_displace_every_atom_six_ways(tmp_path):
    def frequencies(calc, name):
        atoms, _ = relax(BFGS, calc)
        calc_geometries = calc.engine.tally.geometries if hasattr(calc, "engine") else 0
        with_folder = Vibrations(atoms, name=str(tmp_path / name))
        with_folder.run()
        return with_folder.get_frequencies(), calc_geometries

    want, _ = frequencies(Plain(), "plain")
    calc = hybrid(always())
    got, before = frequencies(calc, "hybrid")
    np.testing.assert_allclose(got, want, atol=1e-9)
    # six per atom; the equilibrium was the last geometry of the relaxation
    assert calc.engine.tally.geometries - before == 18


def test_the_dimer_climbs_to_the_same_saddle():
    def climbed(calc):
        atoms = hop()
        atoms.calc = calc
        shift = np.zeros((len(atoms), 3))
        shift[-1, 0] = 0.4
        with DimerControl(
            initial_eigenmode_method="displacement",
            displacement_method="vector",
            logfile=None,
            mask=[False] * (len(atoms) - 1) + [True],
        ) as control:
            dimer = MinModeAtoms(atoms, control)
            dimer.displace(displacement_vector=shift)
            with MinModeTranslate(dimer, logfile=None) as search:
                converged = search.run(fmax=0.05, steps=60)
        return atoms, converged

    want, _ = climbed(EMT())
    got, converged = climbed(hybrid_emt())
    assert converged
    np.testing.assert_allclose(got.positions, want.positions, rtol=0, atol=1e-6)
    between = (hop().positions[-1, 0] + hop(there=True).positions[-1, 0]) / 2
    # a target of 0.05 eV/A on a flat ridge leaves a tenth of an angstrom
    assert got.positions[-1, 0] == pytest.approx(between, abs=0.1)
