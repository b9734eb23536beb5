"""What identifies one geometry: numbers, positions, cell, periodicity, charge and spin."""

from __future__ import annotations

import hashlib

import numpy as np
from ase import Atoms

from hybrid_calc.errors import StructureError

MAX_CHARGE = 20
"""A total charge beyond this is a typing error, not a molecule."""


def charge_of(atoms: Atoms) -> int:
    """Return the total charge ``info["charge"]``, elementary charges; 0 where absent.

    Raises
    ------
    StructureError
        The value is not a whole number of sensible size.
    """
    return _whole(atoms, "charge", default=0, low=-MAX_CHARGE, high=MAX_CHARGE)


def multiplicity_of(atoms: Atoms) -> int:
    """Return the spin multiplicity 2S+1 from ``info["spin"]``.

    Where absent: the lowest that the number of electrons allows, 1 or 2.

    Raises
    ------
    StructureError
        The value is not a positive whole number, or its parity contradicts
        the number of electrons.
    """
    electrons = int(np.sum(atoms.numbers)) - charge_of(atoms)
    lowest = 1 + electrons % 2
    multiplicity = _whole(atoms, "spin", default=lowest, low=1, high=electrons + 1)
    if (multiplicity - lowest) % 2:
        raise StructureError(
            f"{electrons} electrons cannot have multiplicity {multiplicity}; "
            'set atoms.info["spin"] (2S+1) or atoms.info["charge"] so that they agree.'
        )
    return multiplicity


def check_structure(atoms: Atoms) -> None:
    """Refuse what nobody can compute.

    Raises
    ------
    StructureError
        No atoms, a dummy atom, a number that is not finite, or a periodic
        direction without a cell.
    """
    if len(atoms) == 0:
        raise StructureError("the structure has no atoms; give at least one.")
    if (atoms.numbers < 1).any():
        raise StructureError("the structure has dummy atoms (X, number 0); remove them.")
    if not np.isfinite(atoms.positions).all():
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1)).tolist()
        raise StructureError(f"positions of atoms {bad} are not finite; the step before went wrong.")
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all():
        raise StructureError("the cell is not finite; the step before went wrong.")
    if atoms.pbc.any() and (atoms.cell.rank < 3 or atoms.cell.volume < 1e-6):
        raise StructureError(
            f"pbc is {atoms.pbc.tolist()} but the cell {cell.tolist()} has no volume; "
            "set atoms.cell, or atoms.pbc = False for a molecule."
        )


def geometry_key(atoms: Atoms) -> str:
    """Return a hash that is equal exactly when the reference would be asked the same thing."""
    digest = hashlib.sha256()
    for array in (atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc):
        digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"|")
    digest.update(f"{charge_of(atoms)}|{multiplicity_of(atoms)}".encode())
    return digest.hexdigest()


def composition_key(atoms: Atoms) -> tuple[bytes, int, int]:
    """Return what must be the same for two energies to be comparable: sorted numbers, charge, spin."""
    return (np.sort(atoms.numbers).tobytes(), charge_of(atoms), multiplicity_of(atoms))


def _whole(atoms: Atoms, key: str, *, default: int, low: int, high: int) -> int:
    value = atoms.info.get(key)
    if value is None:
        return default
    try:
        number = int(value)
        exact = number == float(value)
    except (TypeError, ValueError, OverflowError):
        exact, number = False, 0
    if not exact or not low <= number <= high:
        raise StructureError(
            f"atoms.info[{key!r}] is {value!r}; it must be a whole number from {low} to {high}."
        )
    return number
