"""What one geometry is: its bonds, what in it can move, how far it is from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from numpy.typing import NDArray

BOND_STRETCH = 1.3
"""Atoms nearer than this times the sum of their covalent radii are bonded."""


CLASH = 0.65
"""Atoms nearer than this times the sum of their covalent radii pass through each other."""


PARTED = 0.85
"""To this part of it they are moved apart: a double bond of carbon and oxygen."""

PARTING_ROUNDS = 20
"""Parting one pair may bring another together."""


def frozen_atoms(template: Atoms) -> list[int]:
    """Return the indices of fixed atoms."""
    fixed = [c.index for c in template.constraints if isinstance(c, FixAtoms)]
    return sorted({int(i) for index in fixed for i in index})


def free_directions(template: Atoms, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal basis of what can move, shape (3N, f).

    Frozen atoms are left out; translation and rotation are, where nothing is frozen.
    """
    count = len(positions)
    frozen = frozen_atoms(template)
    if frozen:
        free = [k for i in range(count) if i not in frozen for k in range(3 * i, 3 * i + 3)]
        return np.asarray(np.eye(3 * count)[:, free])
    centred = positions - positions.mean(axis=0)
    rigid = [np.tile(axis, count) for axis in np.eye(3)]
    rigid += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    left, sizes, _ = np.linalg.svd(np.array(rigid).T, full_matrices=True)
    rank = int((sizes > 1e-8 * sizes[0]).sum())
    return np.asarray(left[:, rank:])


def bonds_of(
    numbers: NDArray[np.int_], positions: NDArray[np.float64]
) -> frozenset[tuple[int, int]]:
    """Return the bonded pairs by covalent radii."""
    first, second = np.triu_indices(len(numbers), k=1)
    distance = np.linalg.norm(positions[first] - positions[second], axis=1)
    reach = BOND_STRETCH * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]])
    bonded = distance < reach
    return frozenset(zip(first[bonded].tolist(), second[bonded].tolist(), strict=True))


def has_clash(numbers: NDArray[np.int_], positions: NDArray[np.float64]) -> bool:
    """Tell whether two atoms are nearer than any chemistry brings them."""
    first, second = np.triu_indices(len(numbers), k=1)
    distance = np.linalg.norm(positions[first] - positions[second], axis=1)
    radii = covalent_radii[numbers]
    return bool((distance < CLASH * (radii[first] + radii[second])).any())


def part_clashes(
    numbers: NDArray[np.int_], positions: NDArray[np.float64], frozen: Sequence[int] = ()
) -> NDArray[np.float64]:
    """Return the geometry (N, 3), A, with atoms that clash moved apart to a short bond.

    Models without a short-range wall pull such atoms together. A geometry without a clash
    comes back as it is; frozen atoms stay.
    """
    here = np.array(positions, dtype=float)
    first, second = np.triu_indices(len(numbers), k=1)
    radii = covalent_radii[numbers]
    reach = radii[first] + radii[second]
    share = np.ones(len(numbers))
    share[list(frozen)] = 0.0
    for _ in range(PARTING_ROUNDS):
        distance = np.linalg.norm(here[first] - here[second], axis=1)
        near = np.flatnonzero((distance < CLASH * reach) & (share[first] + share[second] > 0))
        if not near.size:
            break
        for pair in near:
            one, two = first[pair], second[pair]
            away = here[two] - here[one]
            length = float(np.linalg.norm(away))
            away = away / length if length > 0 else np.array([1.0, 0.0, 0.0])
            missing = (PARTED * reach[pair] - length) / (share[one] + share[two])
            here[one] -= share[one] * missing * away
            here[two] += share[two] * missing * away
    return here


def pair_lengths(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all interatomic distances of a geometry (N, 3), A, shape (N (N - 1) / 2,)."""
    first, second = np.triu_indices(len(positions), k=1)
    return np.asarray(np.linalg.norm(positions[first] - positions[second], axis=1))


def distance_between(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return the largest change of an interatomic distance between two geometries, A."""
    return float(np.abs(pair_lengths(one) - pair_lengths(two)).max(initial=0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One geometry turned and moved onto another.

    Attributes
    ----------
    positions
        Shape (N, 3), A.
    rotation
        Proper rotation, shape (3, 3), that row vectors are multiplied with from the right.
    rmsd
        Root-mean-square distance of the atoms that is left, A.
    """

    positions: NDArray[np.float64]
    rotation: NDArray[np.float64]
    rmsd: float


def turn_onto(positions: NDArray[np.float64], target: NDArray[np.float64]) -> Fit:
    """Turn and move a geometry (N, 3), A, onto another (Kabsch 1976); never mirror it."""
    centre, goal = positions.mean(axis=0), target.mean(axis=0)
    left, _, right = np.linalg.svd((positions - centre).T @ (target - goal))
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ proper @ right
    turned = (positions - centre) @ rotation + goal
    rmsd = float(np.sqrt(((turned - target) ** 2).sum(axis=1).mean()))
    return Fit(positions=turned, rotation=rotation, rmsd=rmsd)


def displacement_between(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return the largest displacement of an atom between two superposed geometries, A.

    Mirror images are not superposed on each other, although their distances are equal.
    """
    turned = turn_onto(one, two).positions
    return float(np.linalg.norm(turned - two, axis=1).max(initial=0.0))
