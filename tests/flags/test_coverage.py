"""Domain flags and the fingerprint of an environment."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.committee.prediction import CommitteeInfo, Domain
from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coverage import (
    FINGERPRINT_CENTRES,
    Surroundings,
    domain_flags,
    fingerprint,
    fingerprint_columns,
    fingerprint_distance,
)
from hybrid_calc.flags.report import Severity


def info(**domain):
    return CommitteeInfo(name="test", identity="0", size=2, domain=Domain(**domain))


def fingerprint_of(atoms):
    pairs = pairs_of(atoms.numbers)
    return fingerprint(pair_distances(atoms, pairs), pairs, fingerprint_columns(pairs))


def test_a_committee_without_limits_raises_no_flag():
    atoms = Atoms("Xe", cell=[9, 9, 9], pbc=True, info={"charge": 3, "spin": 4})
    assert domain_flags(atoms, info()) == ()


def test_unknown_elements_are_named_with_their_atoms():
    atoms = molecule("CH3Cl")
    (flag,) = domain_flags(atoms, info(elements=frozenset({1, 6})))
    assert flag.name == "unknown_element_Cl"
    assert flag.atoms == tuple(np.flatnonzero(atoms.numbers == 17))
    assert (flag.severity, flag.trustable) == (Severity.HARD, False)
    (flag,) = domain_flags(atoms, info(elements=frozenset({1})))
    assert flag.name == "unknown_element_C_Cl"


def test_unknown_charge_and_multiplicity_are_flags_of_their_own():
    atoms = molecule("H2O")
    neutral = info(charges=frozenset({0}), multiplicities=frozenset({1}))
    assert domain_flags(atoms, neutral) == ()
    atoms.info["charge"] = 1
    names = {flag.name: flag for flag in domain_flags(atoms, neutral)}
    assert set(names) == {"unknown_charge", "unknown_multiplicity"}  # 9 electrons: a doublet
    assert names["unknown_charge"].value == 1
    assert names["unknown_multiplicity"].value == 2
    assert not any(flag.trustable for flag in names.values())


def test_a_cell_is_outside_a_committee_for_molecules():
    atoms = molecule("H2O")
    atoms.cell = [9, 9, 9]
    assert domain_flags(atoms, info(periodic=False)) == ()
    atoms.pbc = (False, False, True)
    assert [flag.name for flag in domain_flags(atoms, info(periodic=False))] == ["periodic_cell"]


def test_a_pair_has_the_radial_functions_by_hand():
    distance = 1.2
    got = fingerprint_of(Atoms("HO", [[0, 0, 0], [0, 0, distance]]))
    cut = 0.5 + 0.5 * math.cos(math.pi * distance / 3)
    want = [cut * math.exp(-(((distance - c) / 0.25) ** 2)) for c in FINGERPRINT_CENTRES]
    # columns are H then O; the hydrogen sees an oxygen, the oxygen a hydrogen
    np.testing.assert_allclose(got, [[0.0] * 12 + want, want + [0.0] * 12], atol=1e-12)


def test_nothing_beyond_three_angstrom_is_seen():
    assert not fingerprint_of(Atoms("H2", [[0, 0, 0], [0, 0, 3.01]])).any()
    assert fingerprint_of(Atoms("H")).shape == (1, 12)


def test_neighbours_add_up():
    two = fingerprint_of(Atoms("H3", [[0, 0, -1], [0, 0, 0], [0, 0, 1]]))
    one = fingerprint_of(Atoms("H2", [[0, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(two[1], 2 * one[0], atol=1e-12)


@pytest.mark.parametrize("copies", [1, 36])
def test_surroundings_are_worked_out_when_asked_for_and_of_large_structures_at_once(copies):
    atoms = Atoms()
    for number in range(copies):
        water = molecule("H2O")
        water.translate([4.0 * number, 0, 0])
        atoms += water
    pairs = pairs_of(atoms.numbers)
    distances = pair_distances(atoms, pairs)
    seen = Surroundings(distances, pairs, fingerprint_columns(pairs))
    assert (seen._parts is None) is (copies > 1)
    assert np.array_equal(seen.fingerprint, fingerprint_of(atoms))
    assert seen._parts is None
    assert copy.deepcopy(seen).fingerprint.shape == (3 * copies, 24)


def test_moving_turning_and_renumbering_change_no_environment():
    atoms = molecule("CH3CH2OH")
    want = fingerprint_of(atoms)
    moved = atoms.copy()
    moved.rotate(33, (1, 2, 3))
    moved.positions += [5, 6, 7]
    np.testing.assert_allclose(fingerprint_of(moved), want, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(atoms))
    np.testing.assert_allclose(fingerprint_of(atoms[order]), want[order], atol=1e-12)


def test_an_environment_across_the_boundary_is_the_same():
    atoms = molecule("H2O")
    atoms.cell, atoms.pbc = [10, 10, 10], True
    wrapped = atoms.copy()
    wrapped.wrap()
    assert not np.allclose(wrapped.positions, atoms.positions)
    np.testing.assert_allclose(fingerprint_of(wrapped), fingerprint_of(atoms), atol=1e-12)


def test_the_distance_is_the_worst_atoms():
    here = np.zeros((3, 2))
    there = np.zeros((2, 3, 2))
    there[0, 0], there[0, 1], there[1, 2] = [0.6, 0.8], [0, 2.0], [7.0, 0]
    everyone = np.arange(3)
    assert fingerprint_distance(here, there, everyone) == pytest.approx([2.0, 7.0])
    assert fingerprint_distance(here, there, np.array([0])) == pytest.approx([1.0, 0.0])
