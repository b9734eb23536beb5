"""What a committee says about one geometry, and what every committee must be able to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.errors import PredictionFailed
from hybrid_calc.reference.level import LevelOfTheory


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What M committee members say about one geometry of N atoms.

    Attributes
    ----------
    energies
        Total energy per member, eV, shape (M,).
    forces
        Force per member and atom, eV/A, shape (M, N, 3).
    stress
        Stress per member, Voigt-6, eV/A^3, shape (M, 6); None for molecules
        or where a member has none.
    descriptors
        Rotation-invariant environment of each atom, shape (N, D), or None.
    energy
        Mean of the energies over members, eV.
    mean_forces
        Mean of the forces over members, eV/A, shape (N, 3).
    """

    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None = None
    descriptors: NDArray[np.float64] | None = None
    energy: float = field(init=False)
    mean_forces: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        members, atoms = self.forces.shape[:2]
        if self.energies.shape != (members,) or self.forces.shape != (members, atoms, 3):
            raise PredictionFailed(
                f"a prediction needs energies (M,) and forces (M, N, 3); "
                f"got {self.energies.shape} and {self.forces.shape}."
            )
        parts = [self.energies, self.forces, self.stress, self.descriptors]
        # A NaN or infinity anywhere shows in the sum.
        if not all(math.isfinite(part.sum()) for part in parts if part is not None):
            raise PredictionFailed(
                "a committee member returned a number that is not finite; "
                "the geometry is outside what it can compute."
            )
        object.__setattr__(self, "energy", float(self.energies.sum()) / members)
        object.__setattr__(self, "mean_forces", self.forces.sum(axis=0) / members)

    @property
    def mean_stress(self) -> NDArray[np.float64] | None:
        """Mean over members, Voigt-6, eV/A^3, or None."""
        return None if self.stress is None else np.asarray(self.stress.mean(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What a committee may be asked about at all.

    Attributes
    ----------
    elements
        Atomic numbers it was trained on, None for any.
    charges
        Total charges (elementary charges) it was trained on, None for any.
    multiplicities
        Spin multiplicities 2S+1 it was trained on, None for any.
    periodic
        Whether periodic cells can be answered.
    """

    elements: frozenset[int] | None = None
    charges: frozenset[int] | None = None
    multiplicities: frozenset[int] | None = None
    periodic: bool = True


NEUTRAL_SINGLET: dict[str, frozenset[int]] = {
    "charges": frozenset({0}),
    "multiplicities": frozenset({1}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitteeInfo:
    """What is known about a committee before it answers anything.

    Attributes
    ----------
    name
        Short name for people, ``ANI-1x``.
    identity
        Hash of the members' weights or parameters, 16 hex digits; what was
        learned about one identity is void for another.
    size
        Number of members M.
    domain
        What it may be asked about.
    cutoff
        Radius of an atom's environment, A, or None where there is none.
    level
        Level of theory of its training data, or None where nobody knows.
    source
        Where the weights come from, in words.
    conservative
        Whether every member's forces are the gradient of its energy; None
        where nobody knows.
    """

    name: str
    identity: str
    size: int
    domain: Domain = field(default_factory=Domain)
    cutoff: float | None = None
    level: LevelOfTheory | None = None
    source: str = ""
    conservative: bool | None = None


@runtime_checkable
class Committee(Protocol):
    """M potentials that answer together.

    ``tests/contracts/test_committee.py`` holds what every implementation must
    pass: shapes, finite numbers, invariance, typed refusals, determinism.
    """

    @property
    def info(self) -> CommitteeInfo:
        """Who is answering."""

    def predict(self, atoms: Atoms) -> Prediction:
        """Answer one geometry.

        Raises
        ------
        UnknownElementError
            Element, charge or spin outside ``info.domain``.
        StructureError
            Empty, not finite, or periodic where that is not supported.
        PredictionFailed
            A member crashed or returned a number that is not finite.
        """

    def predict_many(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer several geometries, in one pass where the members allow it."""

    def close(self) -> None:
        """Release processes and files; calling it again does nothing."""


@runtime_checkable
class CalibratedCommittee(Protocol):
    """A committee that brings along what labelled frames said about it."""

    @property
    def calibration(self) -> bytes | None:
        """The file that ``hybrid-calc calibrate`` wrote, None where there is none."""
