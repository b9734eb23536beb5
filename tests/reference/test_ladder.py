"""The SCF ladder on real PySCF, and its judgement on states made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase.units import Hartree

from hybrid_calc.reference import ladder
from hybrid_calc.reference.ladder import aufbau_gap_ev, climb
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.reference.pyscf_fields import build_field, build_molecule

pytest.importorskip("pyscf")

LEVEL = LevelOfTheory(
    program="pyscf", functional="pbe", basis="sto-3g", grid_level=1, convergence_hartree=1e-8
)
WATER = {"numbers": [8, 1, 1], "positions": [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]]}
TRIPLET_OXYGEN = {"numbers": [8, 8], "positions": [[0, 0, 0], [0, 0, 1.21]]}


@pytest.fixture(autouse=True)
def _one_thread():
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield


def maker(structure, *, multiplicity=1, cycles=50):
    """Return what makes a mean field that gives up after so many cycles."""
    request = structure | {"charge": 0, "multiplicity": multiplicity, "max_memory_mb": 500}
    molecule = build_molecule(request | {"level": LEVEL.to_dict()})

    def make():
        field = build_field(molecule, LEVEL.to_dict())
        field.max_cycle = cycles
        return field

    return make


@pytest.fixture(scope="module")
def water_energy():
    return climb(maker(WATER)).field.e_tot


@pytest.fixture
def without_other_guess(monkeypatch):
    """Leave out the rung between the first and the level shift."""
    rungs = {name: run for name, run in ladder.RUNGS.items() if name != "other_guess"}
    monkeypatch.setattr(ladder, "RUNGS", rungs)


def test_rungs_come_in_the_order_of_their_cost():
    assert list(ladder.RUNGS) == ["diis", "other_guess", "level_shift", "second_order", "smearing"]


def test_good_density_is_tried_first_and_saves_cycles(water_energy):
    cold = climb(maker(WATER))
    warm = climb(maker(WATER), cold.field.make_rdm1())
    assert warm.rung == "warm"
    assert warm.cycles < cold.cycles
    assert warm.field.e_tot == pytest.approx(water_energy, abs=1e-6)


def test_smearing_is_only_a_guess(monkeypatch, water_energy):
    monkeypatch.setattr(ladder, "RUNGS", {"smearing": ladder.RUNGS["smearing"]})
    outcome = climb(maker(WATER))
    assert set(outcome.field.mo_occ) == {0.0, 2.0}
    assert outcome.field.e_tot == pytest.approx(water_energy, abs=1e-6)


def test_easy_case_converges_on_the_first_rung():
    outcome = climb(maker(WATER))
    assert outcome.rung == "diis"
    assert outcome.history == ()
    assert outcome.field.converged
    assert 3 <= outcome.cycles <= 15
    assert outcome.gap_ev == pytest.approx(aufbau_gap_ev(outcome.field))
    assert outcome.gap_ev > 5
    assert outcome.s_squared == 0.0


def test_case_that_diis_gives_up_on_converges_with_a_level_shift_to_the_same_state(
    water_energy, without_other_guess
):
    outcome = climb(maker(WATER, cycles=2))
    assert outcome.rung == "level_shift"
    assert outcome.history == ("diis: not converged after 2 cycles",)
    assert outcome.field.e_tot == pytest.approx(water_energy, abs=1e-6)
    assert outcome.cycles > 2


def test_damping_really_damps(monkeypatch, without_other_guess):
    from pyscf.scf import hf

    factors = []
    own = hf.damping
    monkeypatch.setattr(
        hf, "damping", lambda f, old, share: factors.append(share) or own(f, old, share)
    )
    outcome = climb(maker(WATER, cycles=2))
    assert outcome.rung == "level_shift"
    # before DIIS takes over, and none where the state is converged without help
    assert len(factors) >= 4
    assert set(factors) == {ladder.DAMPING}


def test_orbital_energies_of_the_level_shift_rung_are_not_shifted(without_other_guess):
    plain, shifted = climb(maker(WATER)), climb(maker(WATER, cycles=2))
    assert shifted.gap_ev == pytest.approx(plain.gap_ev, abs=1e-3)


def test_case_that_the_level_shift_gives_up_on_converges_second_order(
    monkeypatch, water_energy, without_other_guess
):
    monkeypatch.setattr(ladder, "LONG_CYCLES", 2)
    outcome = climb(maker(WATER, cycles=2))
    assert outcome.rung == "second_order"
    assert outcome.history == (
        "diis: not converged after 2 cycles",
        "level_shift: not converged after 2 cycles",
    )
    assert outcome.field.e_tot == pytest.approx(water_energy, abs=1e-6)


def test_forces_of_a_later_rung_are_those_of_the_first(monkeypatch, without_other_guess):
    plain = climb(maker(WATER)).field.nuc_grad_method().kernel()
    monkeypatch.setattr(ladder, "LONG_CYCLES", 2)
    late = climb(maker(WATER, cycles=2))
    assert late.rung == "second_order"
    np.testing.assert_allclose(late.field.nuc_grad_method().kernel(), plain, atol=1e-4)


def test_unrestricted_triplet_converges_on_a_later_rung_with_its_spin(without_other_guess):
    outcome = climb(maker(TRIPLET_OXYGEN, multiplicity=3, cycles=2))
    assert outcome.rung == "level_shift"
    assert outcome.s_squared == pytest.approx(2.0, abs=0.02)


def test_nothing_converges_and_there_is_no_field(monkeypatch):
    rungs = {name: ladder.RUNGS[name] for name in ("diis", "level_shift")}
    monkeypatch.setattr(ladder, "RUNGS", rungs)
    monkeypatch.setattr(ladder, "LONG_CYCLES", 1)
    outcome = climb(maker(WATER, cycles=1))
    assert outcome.field is None
    assert outcome.rung == ""
    assert [line.split(":")[0] for line in outcome.history] == ["diis", "level_shift"]


def state(energies, occupations, *, converged=True):
    return SimpleNamespace(
        mo_energy=np.array(energies),
        mo_occ=np.array(occupations),
        converged=converged,
        max_cycle=50,
        cycles=4,
        kernel=lambda: None,
        spin_square=lambda: (0.75, 2.0),
    )


def test_gap_of_a_closed_shell_by_hand():
    assert aufbau_gap_ev(state([-1.0, -0.5, 0.25], [2, 2, 0])) == pytest.approx(0.75 * Hartree)


def test_gap_of_an_open_shell_is_the_smaller_one_of_both_spins():
    energies = [[-1.0, -0.5, 0.25], [-0.9, -0.2, 0.3]]
    occupations = [[1, 1, 0], [1, 0, 0]]
    assert aufbau_gap_ev(state(energies, occupations)) == pytest.approx(0.7 * Hartree)


def test_gap_does_not_trust_the_order_of_orbitals():
    assert aufbau_gap_ev(state([0.25, -1.0, -0.5], [0, 2, 2])) == pytest.approx(0.75 * Hartree)


def test_hole_below_an_occupied_orbital_is_a_negative_gap():
    assert aufbau_gap_ev(state([-1.0, -0.5, -0.4], [2, 0, 2])) == pytest.approx(-0.1 * Hartree)


def test_spin_without_an_electron_or_without_a_hole_has_no_gap():
    assert aufbau_gap_ev(state([[-0.5], [-0.1]], [[1], [0]])) == float("inf")


def test_converged_state_that_is_not_aufbau_is_refused_and_the_next_rung_tried(monkeypatch):
    excited = state([-1.0, -0.5, -0.4], [2, 0, 2])
    ground = state([-1.0, -0.5, -0.4], [2, 2, 0])
    answers = iter([excited, ground])
    monkeypatch.setattr(ladder, "RUNGS", {"one": lambda field: field, "two": lambda field: field})
    outcome = climb(lambda: next(answers))
    assert outcome.field is ground
    assert outcome.rung == "two"
    assert outcome.history == ("one: converged to a state with gap -2.72 eV",)
    assert outcome.cycles == 8


def test_state_that_is_not_aufbau_everywhere_is_no_answer(monkeypatch):
    monkeypatch.setattr(ladder, "RUNGS", {"one": lambda field: field, "two": lambda field: field})
    outcome = climb(lambda: state([-1.0, -0.5, -0.4], [2, 0, 2]))
    assert outcome.field is None
    assert len(outcome.history) == 2
