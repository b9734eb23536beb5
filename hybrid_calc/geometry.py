"""What identifies one geometry: numbers, positions, cell, periodicity, charge and spin."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.symbols import Symbols
from numpy.typing import NDArray

from hybrid_calc.errors import StructureError

MAX_CHARGE = 20
"""A total charge beyond this is a typing error, not a molecule."""
PERIODIC = " (periodic)"
"""What the name of a molecule ends with where it is a cell that repeats."""
MIN_VOLUME = 1e-6
"""A smaller cell is none, A^3."""


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
    electrons = _nuclear_charge(atoms.numbers.tobytes()) - charge_of(atoms)
    lowest = 1 + electrons % 2
    multiplicity = _whole(atoms, "spin", default=lowest, low=1, high=electrons + 1)
    if (multiplicity - lowest) % 2:
        raise StructureError(
            f"{electrons} electrons cannot have multiplicity {multiplicity}; "
            'set atoms.info["spin"] (2S+1) or atoms.info["charge"] so that they agree.'
        )
    return multiplicity


def is_periodic(atoms: Atoms) -> bool:
    """Tell whether any direction is periodic; a fifth of the cost of ``atoms.pbc.any()``."""
    return True in atoms.pbc.tolist()


def check_structure(atoms: Atoms) -> None:
    """Refuse what nobody can compute.

    Raises
    ------
    StructureError
        No atoms, a dummy atom, a number that is not finite, or a periodic
        direction without a cell.
    """
    _check_kind(atoms.numbers.tobytes(), atoms.cell.array.tobytes(), atoms.pbc.tobytes())
    _check_positions(atoms.positions)


def identify(atoms: Atoms) -> tuple[tuple[bytes, ...], Composition]:
    """Check a structure; return its `geometry_bytes` and `composition_of`.

    Raises
    ------
    StructureError
        As of `check_structure` and `composition_of`.
    """
    numbers, positions = atoms.numbers.tobytes(), atoms.positions
    cell, pbc = atoms.cell.array.tobytes(), atoms.pbc.tobytes()
    _check_kind(numbers, cell, pbc)
    _check_positions(positions)
    composition = composition_of(atoms)
    return (numbers, positions.tobytes(), cell, pbc, composition.state), composition


def geometry_bytes(atoms: Atoms) -> tuple[bytes, ...]:
    """Return bytes that are equal exactly when a potential would be asked the same thing.

    Numbers, positions, cell and pbc in the atoms' order, then charge and spin.
    """
    return (
        atoms.numbers.tobytes(),
        atoms.positions.tobytes(),
        atoms.cell.array.tobytes(),
        atoms.pbc.tobytes(),
        composition_of(atoms).state,
    )


def geometry_key(atoms: Atoms) -> str:
    """Return the hash of `geometry_bytes`, 64 hex digits; it outlives the process."""
    return key_of_bytes(geometry_bytes(atoms))


def key_of_bytes(parts: tuple[bytes, ...]) -> str:
    """Return `geometry_key` of what `geometry_bytes` returned."""
    return hashlib.sha256(b"|".join(parts)).hexdigest()


@dataclass(frozen=True, slots=True)
class Composition:
    """What must be the same for two energies to be comparable.

    Attributes
    ----------
    formula
        Chemical formula, Hill order.
    elements
        Symbols in the order of the periodic table, ``H C O``.
    charge
        Total charge, elementary charges.
    multiplicity
        2S+1.
    name
        For people, and as a key in JSON.
    state
        Charge and multiplicity as bytes.
    """

    formula: str
    elements: str
    charge: int
    multiplicity: int
    name: str = field(init=False, compare=False)
    state: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        name = f"{self.formula}:{self.charge}:{self.multiplicity}"
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "state", f"{self.charge}|{self.multiplicity}".encode())


def composition_of(atoms: Atoms) -> Composition:
    """Return the composition of a structure.

    Raises
    ------
    StructureError
        Charge or spin are no whole numbers or contradict the number of electrons.
    """
    if atoms.info.get("charge") is None and atoms.info.get("spin") is None:
        return _neutral(atoms.numbers.tobytes())
    return _composition(atoms.numbers.tobytes(), charge_of(atoms), multiplicity_of(atoms))


def molecule_of(atoms: Atoms, composition: Composition | None = None) -> str:
    """Return the chemical formula, Hill order; of a cell that repeats it ends with `PERIODIC`.

    Parameters
    ----------
    atoms
        The structure.
    composition
        Of the structure where it is known already.
    """
    formula = (composition or composition_of(atoms)).formula
    return formula + PERIODIC if is_periodic(atoms) else formula


@lru_cache(maxsize=64)
def _composition(numbers: bytes, charge: int, multiplicity: int) -> Composition:
    symbols = [chemical_symbols[number] for number in np.frombuffer(numbers, dtype=int)]
    present = sorted(set(symbols), key=chemical_symbols.index)
    formula = Symbols(np.frombuffer(numbers, dtype=int)).get_chemical_formula()
    return Composition(formula, " ".join(present), charge, multiplicity)


@lru_cache(maxsize=64)
def _neutral(numbers: bytes) -> Composition:
    """Return the composition without charge, in the lowest multiplicity."""
    return _composition(numbers, 0, 1 + _nuclear_charge(numbers) % 2)


@lru_cache(maxsize=64)
def _check_kind(numbers: bytes, cell: bytes, pbc: bytes) -> None:
    """Refuse no atoms, dummies, a cell that is not finite, or none where it must repeat."""
    if not numbers:
        raise StructureError("the structure has no atoms; give at least one.")
    if np.frombuffer(numbers, dtype=int).min() < 1:
        raise StructureError("the structure has dummy atoms (X, number 0); remove them.")
    vectors = np.frombuffer(cell).reshape(3, 3)
    periodic = np.frombuffer(pbc, dtype=bool)
    if not np.isfinite(vectors).all():
        raise StructureError("the cell is not finite; the step before went wrong.")
    if periodic.any() and abs(np.linalg.det(vectors)) < MIN_VOLUME:
        raise StructureError(
            f"pbc is {periodic.tolist()} but the cell {vectors.tolist()} has no volume; "
            "set atoms.cell, or atoms.pbc = False for a molecule."
        )


def _check_positions(positions: NDArray[np.float64]) -> None:
    # A NaN or infinity anywhere shows in the sum.
    if not math.isfinite(np.add.reduce(positions, axis=None)):
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
        raise StructureError(
            f"positions of atoms {bad} are not finite; the step before went wrong."
        )


@lru_cache(maxsize=64)
def _nuclear_charge(numbers: bytes) -> int:
    return int(np.frombuffer(numbers, dtype=int).sum())


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
