"""A spring that pulls two atoms apart, to drive dynamics out of its basin."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray


class MovingRestraint:
    """Harmonic restraint k/2 (r - r0)^2 on one distance, whose centre r0 moves linearly.

    An ASE constraint: forces and energy are added by ASE, so that the
    calculator and the store never see them.

    Parameters
    ----------
    atoms
        The two indices.
    spring_ev_per_ang2
        k, eV/A^2.
    to_length_ang
        Where the centre goes, A.
    from_step, over_steps
        When it starts to move, and for how long; before, the spring is off.
    """

    def __init__(
        self,
        atoms: tuple[int, int],
        *,
        spring_ev_per_ang2: float,
        to_length_ang: float,
        from_step: int,
        over_steps: int,
    ) -> None:
        self.index = atoms
        self._spring = spring_ev_per_ang2
        self._end = to_length_ang
        self._from_step = from_step
        self._over_steps = over_steps
        self._start: float | None = None
        self._centre: float | None = None

    @property
    def start_length(self) -> float | None:
        """Length at which the pull began, A; None before."""
        return self._start

    def move(self, atoms: Atoms, step: int, start_length: float | None = None) -> None:
        """Set the centre for a step; a resumed run gives the length at which the pull began."""
        if step < self._from_step:
            return
        if self._start is None:
            self._start = (
                start_length
                if start_length is not None
                else float(np.linalg.norm(_separation(atoms, self.index)))
            )
        done = min(1.0, (step - self._from_step) / self._over_steps)
        self._centre = self._start + done * (self._end - self._start)

    def adjust_forces(self, atoms: Atoms, forces: NDArray[np.float64]) -> None:
        """Add the spring's forces, eV/A."""
        if self._centre is None:
            return
        vector = _separation(atoms, self.index)
        length = float(np.linalg.norm(vector))
        pull = -self._spring * (length - self._centre) / length * vector
        forces[self.index[1]] += pull
        forces[self.index[0]] -= pull

    def adjust_potential_energy(self, atoms: Atoms) -> float:
        """Return the spring's energy, eV."""
        if self._centre is None:
            return 0.0
        length = float(np.linalg.norm(_separation(atoms, self.index)))
        return 0.5 * self._spring * (length - self._centre) ** 2

    def adjust_positions(self, atoms: Atoms, new: NDArray[np.float64]) -> None:
        """Leave positions alone."""

    def adjust_momenta(self, atoms: Atoms, momenta: NDArray[np.float64]) -> None:
        """Leave momenta alone."""

    def get_removed_dof(self, atoms: Atoms) -> int:  # noqa: ARG002 - ASE gives it
        """Return that no degree of freedom is removed."""
        return 0

    def copy(self) -> MovingRestraint:
        """Return itself: the copy ASE makes of a structure feels the same spring."""
        return self

    def todict(self) -> dict[str, Any]:
        """Return its settings."""
        return {
            "name": "MovingRestraint",
            "kwargs": {
                "atoms": list(self.index),
                "spring_ev_per_ang2": self._spring,
                "to_length_ang": self._end,
                "from_step": self._from_step,
                "over_steps": self._over_steps,
            },
        }


def _separation(atoms: Atoms, index: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(atoms.get_distance(*index, mic=bool(atoms.pbc.any()), vector=True))
