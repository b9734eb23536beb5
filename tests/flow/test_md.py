"""Molecular dynamics: the same trajectory, one decision and one record per geometry."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms, FixBondLength
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from hybrid_calc import FrameStore, ToyReference
from tests.flow.jobs import TIME_STEP, water
from tests.scripted import Plain, ScriptedGate, always, hybrid

STEPS = 25


def verlet(atoms):
    return VelocityVerlet(atoms, TIME_STEP)


def langevin(atoms):
    return Langevin(
        atoms,
        TIME_STEP,
        temperature_K=300,
        friction=0.01 / units.fs,
        rng=np.random.default_rng(3),
        fixcm=False,
    )


def run(driver, calc, *, constraint=None, steps=STEPS):
    atoms = water()
    if constraint is not None:
        atoms.set_constraint(constraint)
    atoms.calc = calc
    places = []
    dyn = driver(atoms)
    dyn.attach(lambda: places.append(atoms.positions.copy()))
    dyn.run(steps)
    return atoms, np.array(places)


@pytest.mark.parametrize("driver", [verlet, langevin])
def test_where_the_reference_always_answers_it_is_the_references_trajectory(driver):
    _, want = run(driver, Plain())
    _, got = run(driver, hybrid(always(), reference=ToyReference(energy_offset_ev=5)))
    assert np.array_equal(got, want)


@pytest.mark.parametrize("driver", [verlet, langevin])
def test_one_decision_one_label_and_one_record_per_geometry(driver, tmp_path):
    seen = []
    with FrameStore(tmp_path / "run.h5") as store:
        calc = hybrid(always(), store=store, on_step=seen.append)
        run(driver, calc)
        assert [step.index for step in seen] == list(range(STEPS + 1))
        assert calc.engine.reference.calls == STEPS + 1
        records = list(store)
    assert [record.meta["step"] for record in records] == list(range(STEPS + 1))


def test_writing_and_logging_ask_nothing_more(tmp_path):
    calc = hybrid(always())
    atoms = water()
    atoms.calc = calc
    with Trajectory(tmp_path / "md.traj", "w", atoms) as frames:
        dyn = VelocityVerlet(
            atoms, TIME_STEP, trajectory=frames, logfile=tmp_path / "md.log", loginterval=1
        )
        dyn.attach(atoms.get_potential_energy)
        dyn.run(STEPS)
    assert calc.engine.tally.geometries == STEPS + 1
    with Trajectory(tmp_path / "md.traj") as frames:
        assert len(frames) == STEPS + 1
        assert frames[-1].get_potential_energy() == atoms.get_potential_energy()


def test_molecular_dynamics_is_classed_by_temperature():
    calc = hybrid()
    run(verlet, calc)
    assert calc.last_step.flags.mean_temperature > 0


def test_a_trajectory_that_changes_source_stays_whole():
    steps = []
    calc = hybrid(ScriptedGate(lambda number: number % 10 > 5), on_step=steps.append)
    atoms, _ = run(verlet, calc, steps=60)
    assert {step.source.value for step in steps} == {"committee", "reference"}
    assert np.isfinite(atoms.positions).all()
    assert sum(step.energy_jump for step in steps) == pytest.approx(calc.conserved_shift)


def test_a_fixed_atom_stays_and_its_label_keeps_its_force():
    calc = hybrid(always())
    atoms, places = run(verlet, calc, constraint=FixAtoms([0]))
    assert np.array_equal(places[:, 0], np.tile(places[0, 0], (STEPS + 1, 1)))
    assert np.linalg.norm(calc.last_step.label.forces[0]) > 1e-3
    assert not atoms.get_forces()[0].any()
    assert atoms.get_forces(apply_constraint=False)[0].any()


def test_a_fixed_bond_keeps_its_length():
    _, places = run(verlet, hybrid(), constraint=FixBondLength(0, 1))
    lengths = np.linalg.norm(places[:, 0] - places[:, 1], axis=1)
    np.testing.assert_allclose(lengths, lengths[0], atol=1e-9)


def test_a_constraint_makes_no_other_trajectory_than_a_plain_calculators():
    constraint = FixBondLength(0, 1)
    _, want = run(verlet, Plain(), constraint=constraint)
    _, got = run(verlet, hybrid(always()), constraint=constraint)
    assert np.array_equal(got, want)


def replica(seed, calc):
    atoms = water()
    atoms.rattle(0.02, seed=seed)
    atoms.calc = calc
    return atoms, VelocityVerlet(atoms, TIME_STEP)


def test_two_replicas_over_one_engine_run_as_if_alone():
    calc = hybrid()
    replicas = [replica(seed, calc.handle()) for seed in (1, 2)]
    for _ in range(10):  # in turn, so that a shared memory would mix them
        for _, dyn in replicas:
            dyn.run(1)
    for seed, (atoms, _) in zip((1, 2), replicas, strict=True):
        alone, dyn = replica(seed, hybrid())
        dyn.run(10)
        assert np.array_equal(atoms.positions, alone.positions)
        assert atoms.calc.last_step.flags == alone.calc.last_step.flags
