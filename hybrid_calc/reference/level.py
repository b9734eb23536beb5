"""Level of theory: what was solved, as data with a stable identity.

Two numbers computed at different levels are never compared or mixed, so a
level says everything that moves an energy: the physics (functional,
dispersion, basis, ...) and the numerics that shift it by more than the force
tolerance (fitting basis, grid, convergence).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hybrid_calc.errors import InputError

PHYSICS = ("functional", "nlc", "dispersion", "basis", "cart", "solvent")


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelOfTheory:
    """What a reference solves, or what a committee was trained on.

    Attributes
    ----------
    program
        Program that solves it: ``pyscf``, ``toy``, or ``ase:NAME``.
    functional
        Exchange-correlation functional, in PySCF's (libxc's) spelling, lower case.
    nlc
        Non-local correlation, ``vv10`` or empty.
    dispersion
        Dispersion correction with its damping, ``d3bj`` or empty.
    basis
        Orbital basis in PySCF's spelling, lower case.
    cart
        True for Cartesian d and f functions (6-31G(d) as Gaussian runs it).
    solvent
        Implicit solvent, empty for vacuum.
    auxiliary_basis
        Density-fitting basis, ``auto`` for PySCF's choice, empty for no fitting.
        Fitted and unfitted energies differ by 1 to 5 meV, hence part of the identity.
    grid_level
        PySCF integration grid, 0 to 9.
    convergence_hartree
        SCF energy convergence, hartree.
    project_net_force
        Remove the net force and torque that the grid leaves on an isolated molecule.
    parameters
        Anything else that moves the answer, JSON-able: parameters of an ASE calculator.
    """

    program: str
    functional: str = ""
    nlc: str = ""
    dispersion: str = ""
    basis: str = ""
    cart: bool = False
    solvent: str = ""
    auxiliary_basis: str = ""
    grid_level: int = 0
    convergence_hartree: float = 0.0
    project_net_force: bool = False
    parameters: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return every field as JSON-able data."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> LevelOfTheory:
        """Rebuild a level from `to_dict`.

        Raises
        ------
        InputError
            A key is not a field of a level.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(
                f"level of theory has unknown keys {', '.join(unknown)}; "
                f"known are {', '.join(sorted(known))}."
            )
        return cls(**data)  # type: ignore[arg-type]

    @property
    def hash(self) -> str:
        """Identity of everything that moves the answer, 16 hex digits."""
        return _digest(self.to_dict())

    @property
    def physics(self) -> dict[str, object]:
        """Return only the fields that name the physics, not the numerics.

        An ASE calculator or toy has no functional: its program and parameters
        are its physics.
        """
        fields = {name: _plain(getattr(self, name)) for name in PHYSICS}
        cell = self.parameters.get("cell")
        if isinstance(cell, Mapping):
            fields["pseudopotential"] = cell.get("pseudopotential")
        if not self.functional:
            fields |= {"program": self.program, "parameters": _plain(self.parameters)}
        return fields

    def same_physics(self, other: LevelOfTheory) -> bool:
        """Tell whether both name the same physics, whatever the numerics."""
        return _digest(self.physics) == _digest(other.physics)

    def __str__(self) -> str:
        if not self.functional:
            extra = ", ".join(f"{key}={value}" for key, value in sorted(self.parameters.items()))
            return f"{self.program}({extra})" if extra else self.program
        tail = "-" + self.dispersion if self.dispersion else ""
        cartesian = " (Cartesian d)" if self.cart else ""
        solvent = f" in {self.solvent}" if self.solvent else ""
        return f"{self.functional}{tail}/{self.basis}{cartesian}{solvent}"


def _plain(value: object) -> object:
    """Return JSON-able data with sorted keys, so that equal levels hash equally."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _digest(data: Mapping[str, object]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
