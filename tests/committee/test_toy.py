"""The toy committee: a Lennard-Jones pair by hand, and perturbations that can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii

from hybrid_calc.committee.toy import CUTOFF, TOY_LEVEL, WELL_DEPTH, ToyCommittee, lennard_jones
from hybrid_calc.errors import CommitteeError
from hybrid_calc.reference.toy import ToyReference


def pair(distance):
    return Atoms("H2", [[0, 0, 0], [0, 0, distance]])


def edge(sigma):
    """Energy (eV) and slope (eV/A) that the shift removes, of a pair at the cutoff."""
    sixth = (sigma / CUTOFF) ** 6
    return (
        4 * WELL_DEPTH * (sixth**2 - sixth),
        -4 * WELL_DEPTH * (12 * sixth**2 - 6 * sixth) / CUTOFF,
    )


def test_a_pair_rests_at_the_sum_of_its_radii_one_well_deep():
    least = 2 * covalent_radii[1]
    energy, forces, stress = lennard_jones(pair(least))
    shift, slope = edge(least * 2 ** (-1 / 6))
    assert energy == pytest.approx(-WELL_DEPTH - shift - slope * (least - CUTOFF), abs=1e-12)
    np.testing.assert_allclose(forces, [[0, 0, -slope], [0, 0, slope]], atol=1e-12)
    assert stress is None


def test_a_pair_at_sigma_feels_only_the_shift():
    sigma = 2 * covalent_radii[1] * 2 ** (-1 / 6)
    shift, slope = edge(sigma)
    energy, forces, _ = lennard_jones(pair(sigma))
    assert energy == pytest.approx(-shift - slope * (sigma - CUTOFF), abs=1e-12)
    # dE/dr at sigma is -24 e / sigma: the atoms push each other away
    assert forces[1, 2] == pytest.approx(24 * WELL_DEPTH / sigma + slope, rel=1e-12)


def test_energy_and_force_reach_zero_at_the_cutoff():
    inside = lennard_jones(pair(CUTOFF - 1e-6))
    assert inside[0] == pytest.approx(0, abs=1e-12)
    assert inside[1] == pytest.approx(0, abs=1e-9)
    energy, forces, _ = lennard_jones(pair(CUTOFF + 1e-6))
    assert energy == 0
    assert not forces.any()


def test_a_slab_has_a_stress_too():
    slab = bulk("Cu", cubic=True)
    slab.center(vacuum=5, axis=2)
    slab.pbc = (True, True, False)
    assert ToyCommittee().predict(slab).stress.shape == (4, 6)


def test_lonely_atoms_in_a_cell_have_no_stress_and_no_energy():
    energy, forces, stress = lennard_jones(Atoms("H", cell=[20, 20, 20], pbc=True))
    assert (energy, forces.any()) == (0, False)
    assert not stress.any()


def test_the_same_seed_is_the_same_committee_and_another_seed_another():
    assert ToyCommittee(seed=1).info == ToyCommittee(seed=1).info
    assert ToyCommittee(seed=1).info.identity != ToyCommittee(seed=2).info.identity
    atoms = molecule("H2O")
    one, other = (ToyCommittee(seed=seed).predict(atoms).energies for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_without_perturbation_every_member_is_the_truth():
    atoms = molecule("CH3OH")
    answer = ToyCommittee(3, perturbation=0).predict(atoms)
    label = ToyReference().label(atoms)
    assert answer.energies == pytest.approx([label.energy] * 3)
    np.testing.assert_allclose(answer.forces, np.array([label.forces] * 3), atol=1e-12)


def test_a_larger_perturbation_is_a_larger_spread():
    atoms = molecule("CH3OH")
    small, large = (
        ToyCommittee(8, perturbation=size).predict(atoms).energies.std() for size in (0.01, 0.1)
    )
    assert large > 5 * small


def test_committee_and_reference_name_the_same_level():
    assert ToyCommittee().info.level == ToyReference().level == TOY_LEVEL


@pytest.mark.parametrize("members", [-1, 0, 1])
def test_fewer_than_two_members_are_refused(members):
    with pytest.raises(CommitteeError, match=f"at least 2 members; got {members}"):
        ToyCommittee(members)
