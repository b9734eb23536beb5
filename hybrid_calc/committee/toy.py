"""A committee that costs microseconds: perturbed Lennard-Jones, for tests, docs and teaching.

Pair minima sit at the sum of covalent radii, so that a molecule built by
`ase.build.molecule` stays roughly in shape.  The truth it imitates is
`hybrid_calc.reference.toy.ToyReference`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from hybrid_calc.committee.domain import refuse_outside
from hybrid_calc.committee.prediction import CommitteeInfo, Domain, Prediction
from hybrid_calc.errors import CommitteeError
from hybrid_calc.reference.level import LevelOfTheory

CUTOFF = 6.0
"""Radius beyond which a pair does not interact, A."""
WELL_DEPTH = 0.4
"""Depth of every pair's minimum, eV."""
TOY_LEVEL = LevelOfTheory(program="toy", parameters={"well_depth_ev": WELL_DEPTH})


def lennard_jones(
    atoms: Atoms, *, well_depth: float = WELL_DEPTH, radius_scale: float = 1.0
) -> tuple[float, NDArray[np.float64], NDArray[np.float64] | None]:
    """Return energy (eV), forces (eV/A, shape (N, 3)) and stress (Voigt-6, eV/A^3).

    The pair term is 4 e ((s/r)^12 - (s/r)^6), shifted in energy and force to
    reach zero smoothly at the cutoff; stress is None for molecules.

    Parameters
    ----------
    atoms
        Any structure.
    well_depth
        Depth e of the minimum, eV.
    radius_scale
        Factor on the sum of covalent radii, where the minimum lies.
    """
    first, second, vectors = neighbor_list("ijD", atoms, CUTOFF)
    forces = np.zeros((len(atoms), 3))
    if len(first) == 0:
        return 0.0, forces, np.zeros(6) if atoms.pbc.any() else None
    distances = np.linalg.norm(vectors, axis=1)
    radii = covalent_radii[atoms.numbers]
    sigma = radius_scale * (radii[first] + radii[second]) * 2.0 ** (-1 / 6)
    energies, slopes = _pair(distances, sigma, well_depth)
    edge_energies, edge_slopes = _pair(np.full_like(distances, CUTOFF), sigma, well_depth)
    energies = energies - edge_energies - edge_slopes * (distances - CUTOFF)
    slopes = slopes - edge_slopes
    pull = (slopes / distances)[:, None] * vectors
    np.add.at(forces, first, pull)
    stress = None
    if atoms.pbc.any():
        virial = 0.5 * np.einsum("px,py->xy", vectors, pull) / atoms.get_volume()
        stress = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return 0.5 * float(energies.sum()), forces, stress


def _pair(
    distances: NDArray[np.float64], sigma: NDArray[np.float64], depth: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return energy and its derivative by distance of each pair."""
    sixth = (sigma / distances) ** 6
    energies = 4 * depth * (sixth**2 - sixth)
    slopes = -4 * depth * (12 * sixth**2 - 6 * sixth) / distances
    return energies, slopes


class ToyCommittee:
    """Lennard-Jones potentials whose depth and radius differ a little from member to member.

    Parameters
    ----------
    members
        Number of members M, at least 2.
    perturbation
        Standard deviation of the relative change of depth; radii change by a
        tenth of it.
    seed
        Of the perturbations; the same seed is the same committee.
    elements
        Atomic numbers it answers for, None for any.

    Raises
    ------
    CommitteeError
        Fewer than two members.
    """

    def __init__(
        self,
        members: int = 4,
        *,
        perturbation: float = 0.02,
        seed: int = 0,
        elements: frozenset[int] | None = None,
    ) -> None:
        if members < 2:
            raise CommitteeError(
                f"a committee needs at least 2 members; got {members}. "
                "One member has no spread to tell it is wrong."
            )
        random = np.random.default_rng(seed)
        self._depths = WELL_DEPTH * (1 + perturbation * random.standard_normal(members))
        self._scales = 1 + 0.1 * perturbation * random.standard_normal(members)
        weights = np.concatenate([self._depths, self._scales])
        self._info = CommitteeInfo(
            conservative=True,
            name="toy",
            identity=hashlib.sha256(weights.tobytes()).hexdigest()[:16],
            size=members,
            domain=Domain(elements=elements),
            cutoff=CUTOFF,
            level=TOY_LEVEL,
            source="perturbed Lennard-Jones, made on the spot",
        )

    @property
    def info(self) -> CommitteeInfo:
        """Who is answering."""
        return self._info

    def predict(self, atoms: Atoms) -> Prediction:
        """Answer one geometry; see `hybrid_calc.committee.prediction.Committee`."""
        refuse_outside(atoms, self._info)
        answers = [
            lennard_jones(atoms, well_depth=float(depth), radius_scale=float(scale))
            for depth, scale in zip(self._depths, self._scales, strict=True)
        ]
        stresses = [stress for _, _, stress in answers if stress is not None]
        return Prediction(
            energies=np.array([energy for energy, _, _ in answers]),
            forces=np.array([forces for _, forces, _ in answers]),
            stress=np.array(stresses) if stresses else None,
        )

    def predict_many(self, frames: Sequence[Atoms]) -> list[Prediction]:
        """Answer several geometries, one after another."""
        return [self.predict(atoms) for atoms in frames]

    def close(self) -> None:
        """Do nothing; there is nothing to release."""
