"""Bonds that break and form, by hand: H2 starts at 0.74 A, breaks beyond 0.925 A.

Two hydrogens that were apart bond below 0.62 - 0.3 ln 0.4 = 0.8949 A.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.report import Severity
from hybrid_calc.flags.topology import (
    bond_flags,
    breaking_bonds,
    count_fragments,
    forming_bonds,
    initial_graph,
)


def on_a_line(*z):
    return Atoms(f"H{len(z)}", [[0, 0, height] for height in z])


def flags_between(start, now):
    """Return the bond flags of `now` against `start` by name, with the default limits."""
    pairs = pairs_of(start.numbers)
    graph = initial_graph(pair_distances(start, pairs), pairs, len(start), 1.3)
    distances = pair_distances(now, pairs)
    found = bond_flags(
        distances,
        graph,
        breaking_bonds(distances, graph, 1.25),
        forming_bonds(distances, graph, 0.4, 1.25),
        atoms=len(start),
        breaking_ratio=1.25,
        forming_order=0.4,
    )
    assert all(flag.severity is Severity.REGIME for flag in found)
    return {flag.name: flag for flag in found}


@pytest.mark.parametrize(("ratio", "bonded"), [(1.29, True), (1.31, False)])
def test_atoms_are_bonded_up_to_1_3_times_their_radii(ratio, bonded):
    atoms = on_a_line(0, ratio * 0.62)
    pairs = pairs_of(atoms.numbers)
    graph = initial_graph(pair_distances(atoms, pairs), pairs, 2, 1.3)
    assert graph.bonded.tolist() == [bonded]
    assert graph.fragments == (1 if bonded else 2)


def test_ethanol_has_eight_bonds_and_is_one_fragment():
    atoms = molecule("CH3CH2OH")
    pairs = pairs_of(atoms.numbers)
    graph = initial_graph(pair_distances(atoms, pairs), pairs, len(atoms), 1.3)
    assert graph.bonded.sum() == 8
    assert graph.fragments == 1


def test_nothing_moved_nothing_flagged():
    atoms = molecule("CH3CH2OH")
    assert flags_between(atoms, atoms) == {}


@pytest.mark.parametrize(("length", "up"), [(0.92, False), (0.93, True)])
def test_a_bond_is_breaking_beyond_1_25_times_its_initial_length(length, up):
    assert ("bond_breaking" in flags_between(on_a_line(0, 0.74), on_a_line(0, length))) is up


def test_a_broken_bond_says_how_far_and_makes_two_fragments():
    flags = flags_between(on_a_line(0, 0.74), on_a_line(0, 1.48))
    assert set(flags) == {"bond_breaking", "fragments"}
    assert flags["bond_breaking"].value == pytest.approx(2.0)
    assert flags["bond_breaking"].limit == 1.25
    assert flags["bond_breaking"].atoms == (0, 1)
    assert (flags["fragments"].value, flags["fragments"].limit) == (2.0, 1.0)


def test_the_worst_of_two_broken_bonds_is_named_first():
    start = on_a_line(0, 0.74, 10, 10.74)
    flag = flags_between(start, on_a_line(0, 1.0, 10, 12.0))["bond_breaking"]
    assert flag.atoms == (2, 3, 0, 1)


@pytest.mark.parametrize(("distance", "up"), [(0.90, False), (0.89, True)])
def test_two_hydrogens_that_were_apart_bond_below_0_895_angstrom(distance, up):
    start = on_a_line(0, 5)
    assert ("bond_forming" in flags_between(start, on_a_line(0, distance))) is up


def test_a_formed_bond_says_its_order_and_joins_two_fragments():
    flags = flags_between(on_a_line(0, 5), on_a_line(0, 0.62))
    assert set(flags) == {"bond_forming", "fragments"}
    assert flags["bond_forming"].value == pytest.approx(1.0)  # r = R_i + R_j
    assert flags["bond_forming"].limit == 0.4
    assert (flags["fragments"].value, flags["fragments"].limit) == (1.0, 2.0)


@pytest.mark.parametrize(("distance", "up"), [(0.70, False), (0.66, True)])
def test_a_contact_that_was_short_from_the_start_must_shorten_by_1_25(distance, up):
    # 0.83 A is beyond the bond limit 0.806 and within reach 0.895: not bonded, not forming;
    # it forms below 0.83 / 1.25 = 0.664
    start = on_a_line(0, 0.83)
    assert flags_between(start, start) == {}
    assert ("bond_forming" in flags_between(start, on_a_line(0, distance))) is up


def test_a_hydrogen_that_changes_partners_breaks_forms_and_keeps_the_fragments():
    start, end = on_a_line(0, 0.74, 3), on_a_line(0, 2.26, 3)
    flags = flags_between(start, end)
    assert set(flags) == {"bond_breaking", "bond_forming"}
    assert set(flags["bond_breaking"].atoms) == {0, 1}
    assert set(flags["bond_forming"].atoms) == {1, 2}


def test_a_ring_that_opens_breaks_one_bond_and_stays_one_fragment():
    def bent(angle):
        half = math.radians(angle) / 2
        arm = 1.5 * np.array([math.sin(half), math.cos(half), 0])
        return Atoms("C3", [[0, 0, 0], arm, arm * [-1, 1, 1]])

    flags = flags_between(bent(60), bent(100))  # 1.5 A to 3.0 sin 50 = 2.30 A
    assert set(flags) == {"bond_breaking"}
    assert flags["bond_breaking"].atoms == (1, 2)


def test_a_bond_across_the_boundary_is_a_bond():
    def pair(gap):
        cell = [10, 10, 10]
        return Atoms("H2", [[0, 0, gap / 2], [0, 0, 10 - gap / 2]], cell=cell, pbc=True)

    assert flags_between(pair(0.74), pair(0.80)) == {}
    assert "bond_breaking" in flags_between(pair(0.74), pair(1.0))


def test_fragments_are_counted():
    pairs = pairs_of(np.ones(4, dtype=int))  # 01 02 03 12 13 23
    assert count_fragments(np.zeros(6, dtype=bool), pairs, 4) == 4
    assert count_fragments(np.array([1, 0, 0, 0, 0, 1], dtype=bool), pairs, 4) == 2
    assert count_fragments(np.array([1, 1, 1, 0, 0, 0], dtype=bool), pairs, 4) == 1
    assert count_fragments(np.zeros(0, dtype=bool), pairs_of(np.array([1])), 1) == 1
