"""Distances between all pairs, and pairs too close to be chemistry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic, minkowski_reduce
from numpy.typing import NDArray

from hybrid_calc.flags.report import Flag, Severity
from hybrid_calc.geometry import is_periodic


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Every pair i < j of N atoms, P = N (N - 1) / 2 of them.

    Attributes
    ----------
    first, second
        Indices i and j, shape (P,).
    radii_sum
        R_i + R_j of the covalent radii (Cordero 2008, as in ASE), A, shape (P,).
    atoms
        Number of atoms N.
    elements
        Number of different elements E.
    slots
        Rows of an (N x E) table that a pair adds to: element of j as seen from
        i, and element of i as seen from j, shape (2, P).
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    radii_sum: NDArray[np.float64]
    atoms: int
    elements: int
    slots: NDArray[np.intp]


def pairs_of(numbers: NDArray[np.integer]) -> Pairs:
    """Return the pairs of a structure; they depend on the elements only."""
    first, second = np.triu_indices(len(numbers), 1)
    radii = covalent_radii[numbers]
    present, kinds = np.unique(numbers, return_inverse=True)
    return Pairs(
        first=first,
        second=second,
        radii_sum=radii[first] + radii[second],
        atoms=len(numbers),
        elements=len(present),
        slots=np.array(
            [first * len(present) + kinds[second], second * len(present) + kinds[first]]
        ),
    )


def pair_distances(atoms: Atoms, pairs: Pairs) -> NDArray[np.float64]:
    """Return the distance of each pair, A, to the nearest image where periodic, shape (P,)."""
    components = np.ascontiguousarray(atoms.positions.T)
    vectors = components.take(pairs.first, axis=1)
    vectors -= components.take(pairs.second, axis=1)
    if len(pairs.first) and is_periodic(atoms):
        vectors = find_mic(vectors.T, atoms.cell, atoms.pbc)[0].T
    vectors *= vectors
    return np.asarray(np.sqrt(np.add.reduce(vectors, axis=0)))


def close_contacts(distances: NDArray[np.float64], pairs: Pairs, ratio: float) -> tuple[Flag, ...]:
    """Flag pairs closer than `ratio` times the sum of their covalent radii.

    One flag, for the worst pair, naming every atom that clashes.
    """
    relative = distances / pairs.radii_sum
    clashing = np.flatnonzero(relative < ratio)
    if len(clashing) == 0:
        return ()
    return (
        Flag(
            name="close_contact",
            severity=Severity.HARD,
            atoms=atoms_of(clashing[np.argsort(relative[clashing])], pairs),
            value=float(relative[clashing].min()),
            limit=ratio,
        ),
    )


def own_image_contacts(atoms: Atoms, ratio: float) -> tuple[Flag, ...]:
    """Flag atoms closer than `ratio` times twice their covalent radius to their own image."""
    if not is_periodic(atoms):
        return ()
    reduced = np.asarray(minkowski_reduce(atoms.cell, atoms.pbc)[0])
    shortest = float(np.linalg.norm(reduced[atoms.pbc], axis=1).min())
    relative = shortest / (2 * covalent_radii[atoms.numbers])
    clashing = np.flatnonzero(relative < ratio)
    if len(clashing) == 0:
        return ()
    return (
        Flag(
            name="close_contact",
            severity=Severity.HARD,
            atoms=tuple(clashing[np.argsort(relative[clashing])].tolist()),
            value=float(relative.min()),
            limit=ratio,
        ),
    )


def atoms_of(chosen: NDArray[np.intp], pairs: Pairs) -> tuple[int, ...]:
    """Return the atoms of the chosen pairs, each once, in the pairs' order."""
    flat = np.column_stack([pairs.first[chosen], pairs.second[chosen]]).ravel()
    return tuple(dict.fromkeys(flat.tolist()))
