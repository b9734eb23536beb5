"""Close contacts: covalent radii are 0.31 A (H), 0.76 (C), 0.66 (O); the limit is 0.65 of a sum."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from hybrid_calc.flags.contacts import close_contacts, own_image_contacts, pair_distances, pairs_of
from hybrid_calc.flags.report import Severity


def contacts(atoms, ratio=0.65):
    pairs = pairs_of(atoms.numbers)
    return close_contacts(pair_distances(atoms, pairs), pairs, ratio)


def hydrogens(*z):
    return Atoms(f"H{len(z)}", [[0, 0, height] for height in z])


def test_pairs_are_every_i_below_j_with_the_sum_of_their_radii():
    pairs = pairs_of(np.array([1, 6, 8]))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 2),
    ]
    assert pairs.radii_sum == pytest.approx([0.31 + 0.76, 0.31 + 0.66, 0.76 + 0.66])


@pytest.mark.parametrize(("distance", "up"), [(0.402, True), (0.404, False), (0.74, False)])
def test_two_hydrogens_clash_below_0_403_angstrom(distance, up):
    assert bool(contacts(hydrogens(0, distance))) is up


def test_the_flag_is_hard_and_says_how_close():
    (flag,) = contacts(hydrogens(0, 0.31))
    assert (flag.name, flag.severity, flag.trustable) == ("close_contact", Severity.HARD, True)
    assert flag.value == pytest.approx(0.5)
    assert flag.limit == 0.65
    assert str(flag) == "close_contact at atoms 0, 1: 0.5 against 0.65"


def test_one_flag_names_every_atom_that_clashes_worst_pair_first():
    # 0-1 are 0.40 apart, 2-3 are 0.20 apart, 4 is alone
    (flag,) = contacts(hydrogens(0, 0.4, 5, 5.2, 10))
    assert flag.atoms == (2, 3, 0, 1)
    assert flag.value == pytest.approx(0.2 / 0.62)


def test_atoms_on_top_of_each_other_clash():
    (flag,) = contacts(hydrogens(0, 0))
    assert flag.value == 0


def test_a_lonely_atom_has_no_contacts():
    assert contacts(Atoms("H")) == ()


def test_a_pair_across_the_boundary_is_as_close_as_its_nearest_image():
    atoms = Atoms("H2", [[0, 0, 0.1], [0, 0, 9.8]], cell=[10, 10, 10])
    assert contacts(atoms) == ()
    atoms.pbc = True
    pairs = pairs_of(atoms.numbers)
    assert pair_distances(atoms, pairs) == pytest.approx([0.3])
    assert contacts(atoms)[0].atoms == (0, 1)


def test_only_periodic_directions_have_images():
    atoms = Atoms("H2", [[0, 0, 0.1], [0, 0, 9.8]], cell=[10, 10, 10], pbc=(True, True, False))
    assert contacts(atoms) == ()


def test_the_nearest_image_of_a_slanted_cell_is_found():
    # a = (4, 0, 0), b = (3.9, 1, 0): b - a = (-0.1, 1, 0) is the short lattice vector
    atoms = Atoms("H2", [[0, 0, 0], [-0.1, 1.0, 0.3]], cell=[[4, 0, 0], [3.9, 1, 0], [0, 0, 9]])
    atoms.pbc = True
    assert pair_distances(atoms, pairs_of(atoms.numbers)) == pytest.approx([0.3])


def test_an_atom_too_close_to_its_own_image_clashes():
    tight = Atoms("Cu", cell=[1.0, 9.0, 9.0], pbc=True)
    (flag,) = own_image_contacts(tight, 0.65)
    assert (flag.name, flag.atoms) == ("close_contact", (0,))
    assert flag.value == pytest.approx(1.0 / (2 * 1.32))  # Cordero's radius of copper
    tight.pbc = [False, True, True]
    assert own_image_contacts(tight, 0.65) == ()


def test_an_image_along_a_diagonal_of_a_skewed_cell_is_seen():
    skewed = Atoms("Cu", cell=[[5.0, 0, 0], [4.5, 0.8, 0], [0, 0, 5.0]], pbc=True)
    assert own_image_contacts(skewed, 0.65)
