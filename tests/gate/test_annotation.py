"""Regimes of frames nobody watched: by a structure, by the first frame, by their own bonds."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2

from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.gate.annotation import Annotator, group_of, open_bond_flags


def regime(atoms, annotator=None, group=""):
    return (annotator or Annotator()).annotate(atoms, group)


def stretched(name, first, second, length):
    atoms = molecule(name)
    atoms.set_distance(first, second, length, fix=0)
    return atoms


def rattled(name, seed, size=0.02):
    atoms = molecule(name)
    atoms.rattle(size, seed=seed)
    return atoms


def proton_between_oxygens(distance):
    """H3O2-: a hydrogen so far from one of two OH that stand 2.4 A apart."""
    places = [[0, 0, 0], [2.4, 0, 0], [distance, 0, 0], [-0.3, 0.92, 0], [2.7, 0.92, 0]]
    return Atoms("O2H3", positions=places, info={"charge": -1})


def test_every_molecule_of_the_g2_set_is_at_home():
    """162 molecules of Curtiss, radicals, rings, chlorides and hydrogen-bond-free all."""
    flagged = {name: regime(molecule(name)).flags for name in g2.names}
    assert {name: flags for name, flags in flagged.items() if flags} == {}
    assert len(flagged) == 162


@pytest.mark.parametrize("length", [1.4, 1.6, 1.8])
def test_a_hydrogen_on_its_way_out_is_an_open_bond(length):
    said = regime(stretched("CH3OH", 1, 3, length))
    assert said.regime == "reactive H C O"
    assert said.judged_by == "radii"
    assert said.flags[0].startswith("open_bond")


def test_a_hydrogen_bond_is_none():
    dimer = molecule("H2O") + molecule("H2O")
    dimer.positions[:3] -= dimer.positions[0]
    out = dimer.positions[1] / np.linalg.norm(dimer.positions[1])
    dimer.positions[3:] += dimer.positions[1] + 1.75 * out - dimer.positions[3]
    dimer.rotate(180, out, center=dimer.positions[3])
    assert regime(dimer).flags == ()
    pairs = pairs_of(dimer.numbers)
    assert dimer.get_distance(1, 3) == pytest.approx(1.75)
    # 1.75 over 0.97 is 1.8: in reach of a hydrogen without a bond, not of this one
    lone = Atoms("OH", positions=[[0, 0, 0], [1.75, 0, 0]])
    assert open_bond_flags(
        pair_distances(lone, pairs_of(lone.numbers)), pairs_of(lone.numbers), lone.numbers
    )
    found = open_bond_flags(pair_distances(dimer, pairs), pairs, dimer.numbers)
    assert not [flag for flag in found if {1, 3} <= set(flag.atoms)]


def test_a_proton_half_way_is_reactive_and_at_either_end_at_home():
    assert regime(proton_between_oxygens(0.98)).flags == ()
    assert regime(proton_between_oxygens(1.42)).flags == ()
    for half_way in (1.18, 1.2):
        assert regime(proton_between_oxygens(half_way)).regime.startswith("reactive")


def test_a_ring_of_three_that_opens_is_reactive():
    """Oxirane's C-O-C angle: 61 degrees closed, 85 half way, 111 as in an ether."""

    def bent(angle):
        half = np.radians(angle / 2)
        out = 1.43 * np.array([[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
        return Atoms("OC2", positions=[[0, 0, 0], *out])

    assert regime(bent(61)).regime.startswith("equilibrium")
    assert regime(bent(85)).regime.startswith("reactive")
    assert regime(bent(111)).regime.startswith("equilibrium")


def test_isomers_in_one_set_are_each_at_home_but_a_path_from_the_first_is_not():
    left, right = proton_between_oxygens(0.98), proton_between_oxygens(1.42)
    by_bonds, by_first = Annotator(), Annotator(from_first=True)
    assert (
        regime(left, by_bonds).regime
        == regime(right, by_bonds).regime
        == "equilibrium H O, charge -1"
    )
    assert regime(left, by_first).regime.startswith("equilibrium")
    said = regime(right, by_first)
    assert said.regime == "reactive H O, charge -1"
    assert said.judged_by == "first"
    assert any(flag.startswith("bond_forming") for flag in said.flags)


def test_groups_have_first_frames_of_their_own():
    annotator = Annotator(from_first=True)
    left, right = proton_between_oxygens(0.98), proton_between_oxygens(1.42)
    regime(left, annotator, "a")
    assert regime(right, annotator, "b").regime.startswith("equilibrium")
    assert regime(right, annotator, "a").regime.startswith("reactive")
    named = right.copy()
    named.info["trajectory"] = 7
    assert (group_of(named), group_of(right)) == ("7", "")


def test_a_structure_given_decides_for_frames_with_its_atoms_only():
    annotator = Annotator(structures=[proton_between_oxygens(0.98)])
    said = regime(proton_between_oxygens(1.42), annotator)
    assert (said.judged_by, said.regime) == ("structure", "reactive H O, charge -1")
    assert regime(molecule("H2O"), annotator).judged_by == "isomer"


def test_an_open_first_frame_is_not_what_others_are_judged_by():
    annotator = Annotator()
    assert regime(stretched("H2O", 0, 1, 1.7), annotator).judged_by == "radii"
    said = regime(molecule("H2O"), annotator)
    assert (said.judged_by, said.flags) == ("isomer", ())


def test_strain_is_judged_against_the_first_of_the_same_isomer():
    annotator = Annotator()
    regime(molecule("CH4"), annotator)
    strained = molecule("CH4")
    strained.positions[1] *= 1.2  # 1.31 A, a fifth too long, not yet open
    said = regime(strained, annotator)
    assert said.judged_by == "isomer"
    assert said.regime == "high-energy H C"


def test_atoms_on_top_of_each_other_clash():
    assert regime(stretched("H2O", 0, 1, 0.3)).regime == "clash H O"


def test_temperature_parts_the_intact():
    frames = [rattled("CH3OH", seed) for seed in range(3)]
    for kelvin, name in (
        (None, "equilibrium"),
        (300.0, "equilibrium"),
        (600.0, "warm"),
        (900.0, "hot"),
    ):
        annotator = Annotator(temperature_kelvin=kelvin)
        assert {regime(atoms, annotator).regime for atoms in frames} == {f"{name} H C O"}


def test_order_and_rotation_do_not_matter():
    for atoms in (stretched("CH3OH", 1, 3, 1.6), rattled("CH3OH", 1)):
        turned = atoms.copy()
        turned.rotate(37, (1, 2, 3))
        turned = turned[np.random.default_rng(0).permutation(len(turned))]
        assert regime(turned).regime == regime(atoms).regime


def test_a_vacancy_in_a_crystal_is_a_defect():
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    annotator = Annotator(structures=[crystal])
    assert regime(crystal, annotator).regime.startswith("equilibrium")
