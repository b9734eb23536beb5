"""How fast the atoms move."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses
from ase.geometry import find_mic
from numpy.typing import NDArray

from hybrid_calc.errors import StructureError
from hybrid_calc.flags.report import Flag, Severity
from hybrid_calc.geometry import is_periodic


def temperature(atoms: Atoms) -> float | None:
    """Return the temperature, K, as ASE defines it; None outside dynamics, without momenta.

    Raises
    ------
    StructureError
        The momenta are not finite.
    """
    momenta, masses = atoms.arrays.get("momenta"), atoms.arrays.get("masses")
    if momenta is None:
        return None
    inverse = _inverse_masses(atoms.numbers.tobytes()) if masses is None else 1 / masses[:, None]
    squares = momenta * momenta
    squares *= inverse
    twice_kinetic = float(np.add.reduce(squares, axis=None))
    if twice_kinetic == 0:
        return None
    if not math.isfinite(twice_kinetic):
        raise StructureError("the momenta are not finite; the step before went wrong.")
    constrained = bool(atoms.constraints)  # asking ASE costs more
    freedom = atoms.get_number_of_degrees_of_freedom() if constrained else 3 * len(atoms)
    return twice_kinetic / (freedom * units.kB) if freedom else 0.0


@lru_cache(maxsize=64)
def _inverse_masses(numbers: bytes) -> NDArray[np.float64]:
    """Return one over the standard masses, 1/u, shape (N, 1)."""
    return np.asarray(1 / atomic_masses[np.frombuffer(numbers, dtype=int)][:, None])


def step_displacement(atoms: Atoms, before: NDArray[np.float64], limit: float) -> tuple[Flag, ...]:
    """Flag atoms that moved further than `limit` (A) since the geometry before.

    Parameters
    ----------
    atoms
        Geometry now.
    before
        Positions one step ago, A, shape (N, 3).
    limit
        Largest ordinary displacement, A.
    """
    moved = atoms.positions - before
    if is_periodic(atoms):
        moved, _ = find_mic(moved, atoms.cell, atoms.pbc)
    if np.add.reduce(moved * moved, axis=None) <= limit**2:  # all atoms together
        return ()
    lengths = np.linalg.norm(moved, axis=1)
    far = np.flatnonzero(lengths > limit)
    if not len(far):
        return ()
    return (
        Flag(
            name="step_displacement",
            severity=Severity.HARD,
            atoms=tuple(far[np.argsort(-lengths[far])].tolist()),
            value=float(lengths.max()),
            limit=limit,
            unit="A",
        ),
    )


def high_temperature(mean_temperature: float, limit: float) -> tuple[Flag, ...]:
    """Flag a mean temperature (K) above `limit` (K)."""
    if mean_temperature <= limit:
        return ()
    return (
        Flag(
            name="mean_temperature",
            severity=Severity.SOFT,
            value=mean_temperature,
            limit=limit,
            unit="K",
        ),
    )


def energy_drift(per_atom: float, limit: float) -> tuple[Flag, ...]:
    """Flag a drift of the conserved quantity (eV per atom) beyond `limit`."""
    if abs(per_atom) <= limit:
        return ()
    return (
        Flag(
            name="energy_drift",
            severity=Severity.SOFT,
            value=per_atom,
            limit=limit,
            unit="eV per atom",
        ),
    )
