"""A reference that costs microseconds: the Lennard-Jones truth behind `ToyCommittee`."""

from __future__ import annotations

from collections.abc import Callable

from ase import Atoms

from hybrid_calc.committee.toy import TOY_LEVEL, lennard_jones
from hybrid_calc.errors import ReferenceNotConverged
from hybrid_calc.geometry import check_structure
from hybrid_calc.reference.checks import checked_label
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory


class ToyReference:
    """The unperturbed Lennard-Jones potential.

    Parameters
    ----------
    energy_offset_ev
        Added to every energy, so that tests see two levels with different zeros.
    fails
        Asked before each label; where it says True the label fails as an SCF
        that does not converge would.
    """

    def __init__(
        self,
        *,
        energy_offset_ev: float = 0.0,
        fails: Callable[[Atoms], bool] | None = None,
    ) -> None:
        self._offset = energy_offset_ev
        self._fails = fails
        self.calls = 0

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory of every label."""
        return TOY_LEVEL

    def label(self, atoms: Atoms) -> Label:
        """Solve one geometry; see `hybrid_calc.reference.label.Reference`."""
        check_structure(atoms)
        self.calls += 1
        if self._fails is not None and self._fails(atoms):
            raise ReferenceNotConverged("the toy reference was told to fail here.")
        energy, forces, stress = lennard_jones(atoms)
        return checked_label(
            atoms, energy=energy + self._offset, forces=forces, stress=stress, level=self.level
        )

    def close(self) -> None:
        """Do nothing; there is nothing to release."""
