"""How much the members disagree, on arrays.

The spread of a vector is the root-mean-square distance of the members'
vectors from their mean, with the M - 1 denominator.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def force_spread(forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the disagreement about each atom's force, eV/A, shape (N,).

    Parameters
    ----------
    forces
        Force per member and atom, eV/A, shape (M, N, 3), M at least 2.
    """
    members = len(forces)
    deviation = forces - forces.sum(axis=0) / members
    return np.asarray(np.sqrt(np.einsum("kix,kix->i", deviation, deviation) / (members - 1)))


def max_force_spread(forces: NDArray[np.float64], mean: NDArray[np.float64] | None = None) -> float:
    """Return the disagreement about the worst atom, eV/A.

    Parameters
    ----------
    forces
        Force per member and atom, eV/A, shape (M, N, 3), M at least 2.
    mean
        Their mean over members where it is known already, shape (N, 3).
    """
    members = len(forces)
    deviation = forces - (forces.sum(axis=0) / members if mean is None else mean)
    squares = np.einsum("kix,kix->i", deviation, deviation)
    return math.sqrt(max(squares.tolist()) / (members - 1))


def energy_spread_per_atom(energies: NDArray[np.float64], atoms: int) -> float:
    """Return the standard deviation of the members' energies, eV per atom."""
    return float(energies.std(ddof=1)) / atoms


def max_force_error(forces: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Return the largest distance between two force vectors of the same atom, eV/A.

    Parameters
    ----------
    forces, reference
        Shape (N, 3), eV/A.
    """
    return math.sqrt(float(((forces - reference) ** 2).sum(axis=1).max()))
