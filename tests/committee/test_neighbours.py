"""Neighbour lists against every distance computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.committee.neighbours import NeighbourLists

CUTOFF = 3.0


def by_hand(atoms):
    """Return all edges (from, to, vector rounded) by trying every image within four cells."""
    reach = [range(-4, 5) if periodic else (0,) for periodic in atoms.pbc]
    edges = []
    for shift in itertools.product(*reach):
        offset = np.array(shift) @ atoms.cell.array
        for one, other in itertools.product(range(len(atoms)), repeat=2):
            vector = atoms.positions[other] - atoms.positions[one] + offset
            if (one != other or any(shift)) and np.linalg.norm(vector) < CUTOFF:
                edges.append((one, other, *np.round(vector, 8) + 0.0))
    return sorted(edges)


def as_edges(pairs):
    """Return both edges of every pair, checking that the edge numbers are in order."""
    count = len(pairs.first)
    ends = np.empty(2 * count, dtype=int)
    ends[pairs.forward], ends[pairs.backward] = pairs.second, pairs.first
    assert (np.diff(ends) >= 0).all()
    edges = []
    for first, second, vector in zip(pairs.first, pairs.second, pairs.vectors, strict=True):
        edges.append((first, second, *np.round(vector, 8) + 0.0))
        edges.append((second, first, *np.round(-vector, 8) + 0.0))
    return sorted(edges)


def crowd(seed, pbc):
    random = np.random.default_rng(seed)
    cell = np.diag(random.uniform(2.4, 5.0, 3)) + random.normal(scale=0.5, size=(3, 3))
    positions = random.normal(scale=3.0, size=(5, 3)) - 4.0
    return Atoms("H5", positions=positions, cell=cell if any(pbc) else None, pbc=pbc)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_found_by_hand(seed, pbc):
    atoms = crowd(seed, pbc)
    assert as_edges(NeighbourLists(CUTOFF).pairs(atoms)) == by_hand(atoms)


def test_the_list_is_kept_while_atoms_move_less_than_half_the_skin():
    atoms = crowd(0, (True, True, True))
    lists = NeighbourLists(CUTOFF, skin=0.6)
    lists.pairs(atoms)
    start = atoms.positions.copy()
    for offset, builds in ((0.1, 1), (0.29, 1), (0.31, 2), (0.2, 2), (0.0, 2)):
        atoms.positions[2] = start[2] + [0, offset, 0]
        assert as_edges(lists.pairs(atoms)) == by_hand(atoms)
        assert lists.builds == builds


def test_what_comes_out_does_not_depend_on_when_the_list_was_built():
    atoms = crowd(1, (True, False, True))
    lists = NeighbourLists(CUTOFF)
    lists.pairs(atoms)
    atoms.positions += np.random.default_rng(2).normal(scale=0.05, size=(5, 3))
    old, new = lists.pairs(atoms), NeighbourLists(CUTOFF).pairs(atoms)
    assert lists.builds == 1
    for name in ("first", "second", "vectors", "forward", "backward"):
        assert np.array_equal(getattr(old, name), getattr(new, name))


def _stretch(atoms):
    atoms.set_cell(atoms.cell * 1.01)


def _open(atoms):
    atoms.pbc = (True, True, False)


def _replace(atoms):
    atoms.numbers[0] = 8


@pytest.mark.parametrize("change", [_stretch, _open, _replace])
def test_another_cell_periodicity_or_element_is_another_list(change):
    atoms = crowd(2, (True, True, True))
    lists = NeighbourLists(CUTOFF)
    lists.pairs(atoms)
    change(atoms)
    assert as_edges(lists.pairs(atoms)) == by_hand(atoms)
    assert lists.builds == 2


def test_a_molecules_cell_is_not_looked_at():
    atoms = crowd(3, (False, False, False))
    lists = NeighbourLists(CUTOFF)
    lists.pairs(atoms)
    atoms.cell = [9, 9, 9]
    lists.pairs(atoms)
    assert lists.builds == 1


def test_images_of_a_band_keep_their_lists_and_old_ones_are_dropped():
    images = [crowd(4, (False, False, False)) for _ in range(5)]
    for number, atoms in enumerate(images):
        atoms.positions[0, 0] += number
    lists = NeighbourLists(CUTOFF, capacity=5)
    for _ in range(3):
        for atoms in images:
            assert as_edges(lists.pairs(atoms)) == by_hand(atoms)
    assert lists.builds == 5
    few = NeighbourLists(CUTOFF, capacity=2)
    for _ in range(2):
        for atoms in images:
            few.pairs(atoms)
    assert few.builds == 10
