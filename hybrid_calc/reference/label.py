"""What the reference said about one geometry, how well it was checked, and who can say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.reference.level import LevelOfTheory


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A converged and checked reference answer for N atoms.

    Attributes
    ----------
    energy
        Total energy on the reference's own zero, eV.
    forces
        Shape (N, 3), eV/A.
    stress
        Voigt-6, eV/A^3, or None for molecules.
    level
        What was solved.
    rung
        Step of the SCF ladder that converged, ``direct`` for other references.
    checks
        Numbers that were checked: net force (eV/A), cycles, gap (eV), <S^2>.
    wall_seconds
        Time the reference took, s.
    versions
        Program versions, by package name.
    """

    energy: float
    forces: NDArray[np.float64]
    level: LevelOfTheory
    stress: NDArray[np.float64] | None = None
    rung: str = "direct"
    checks: Mapping[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Reference(Protocol):
    """Whoever answers where the committee cannot be trusted.

    ``tests/contracts/test_reference.py`` holds what every implementation must
    pass: shapes, finite numbers, typed failures, a stable level.
    """

    @property
    def level(self) -> LevelOfTheory:
        """Level of theory of every label."""

    def label(self, atoms: Atoms) -> Label:
        """Solve one geometry and check the answer.

        Raises
        ------
        ReferenceFailed
            No answer that can be trusted.
        StructureError
            A geometry nobody can compute.
        """

    def close(self) -> None:
        """Release processes and files; calling it again does nothing."""


@runtime_checkable
class CarefulReference(Reference, Protocol):
    """A reference that can look harder where the bonds of a molecule have changed."""

    def label_doubtful(self, atoms: Atoms) -> Label:
        """Solve one geometry and examine whether the state found is the lowest; see `label`."""


@runtime_checkable
class ResumableReference(Reference, Protocol):
    """A reference whose labels depend, within its convergence, on labels before them."""

    def state(self) -> dict[str, Any]:
        """Return what the next labels depend on, JSON-able."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""

    def recall(self, atoms: Atoms, *, doubtful: bool) -> None:
        """Take note of a geometry labelled after the state was written, before the run went on.

        `doubtful` where `CarefulReference.label_doubtful` was asked.
        """
