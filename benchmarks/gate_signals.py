"""Every signal that was considered, on tables: those the gate has and candidates.

Candidates are kept here whether or not they earned their place, so that the
comparison can be repeated: geometry novelty (clouds of the fingerprints of
training frames), the stretch of the initial bonds, the spread in units of what
the element shows on training frames, its mean over atoms, the spread of
energies with each member's own offset removed, and a reliability head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from ase.data import covalent_radii
from gate_tables import Table
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import CommitteeInfo
from hybrid_calc.flags.coverage import FINGERPRINT_CENTRES
from hybrid_calc.gate.novelty import Novelty
from hybrid_calc.gate.observation import Observation

GATE_SIGNALS = (
    "force_spread",
    "relative_spread",
    "energy_spread_per_atom",
    "novelty",
    "largest_force",
)
CANDIDATES = (
    "geometry_novelty",
    "stretch",
    "element_spread",
    "mean_spread",
    "relative_energy_spread",
    "second_opinion",
    "bond_orders",
)
LEAST = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the training frames show, for signals that compare with it.

    Attributes
    ----------
    info
        Of the committee.
    elements
        Atomic numbers, ascending.
    novelty, geometry
        Clouds of descriptors and of fingerprints.
    spreads
        Root mean square of the force spread, by element, eV/A.
    offsets
        By molecule, each member's mean energy error on its training frames, eV, shape (M,).
    """

    info: CommitteeInfo
    elements: tuple[int, ...]
    novelty: Novelty
    geometry: Novelty
    spreads: Mapping[int, float]
    offsets: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, training: Sequence[Table], info: CommitteeInfo) -> Trained:
        """Look at the training frames of every molecule."""
        elements = tuple(sorted({int(z) for table in training for z in table.numbers}))
        prints = [fingerprints(t, t.observations(info, None), elements) for t in training]
        numbers = [table.numbers for table in training for _ in range(len(table))]
        spreads: dict[int, float] = {}
        for z in elements:
            values = np.concatenate([t.atom_spreads[:, t.numbers == z].ravel() for t in training])
            spreads[z] = float(np.sqrt((values**2).mean()))
        return cls(
            info=info,
            elements=elements,
            novelty=Novelty.fit(numbers, [row for t in training for row in t.descriptors]),
            geometry=Novelty.fit(numbers, [row for table in prints for row in table]),
            spreads=spreads,
            offsets={t.molecule: (t.energies - t.true_energies[:, None]).mean(0) for t in training},
        )


def fingerprints(
    table: Table, observations: Sequence[Observation], elements: Sequence[int]
) -> NDArray[np.float64]:
    """Return the fingerprints with columns for all elements, shape (F, N, D)."""
    width = len(FINGERPRINT_CENTRES)
    present = sorted({int(z) for z in table.numbers})
    found = np.array([observation.fingerprint for observation in observations])
    spread = np.zeros((*found.shape[:2], len(elements) * width))
    for place, z in enumerate(present):
        first = list(elements).index(z) * width
        spread[:, :, first : first + width] = found[:, :, place * width : (place + 1) * width]
    return spread


def signals(
    table: Table, observations: Sequence[Observation], trained: Trained
) -> dict[str, NDArray[np.float64]]:
    """Return every signal of every frame, shape (F,) each."""
    found = {
        name: np.array([observation.signal(name) for observation in observations])
        for name in GATE_SIGNALS
    }
    atoms = atom_signals(table, observations, trained)
    found["geometry_novelty"] = atoms["geometry_novelty"].max(1)
    found["element_spread"] = atoms["element_spread"].max(1)
    found["mean_spread"] = np.sqrt((table.atom_spreads**2).mean(1))
    found["stretch"] = stretch(table)
    found["bond_orders"] = bond_order_change(table)
    found["second_opinion"] = table.second_opinions
    relative = table.energies - trained.offsets[table.molecule]
    found["relative_energy_spread"] = relative.std(1, ddof=1)
    found["flags"] = np.array([float(len(o.asking_flags())) for o in observations])
    found["flag_count"] = 1 + found["flags"]  # its logarithm is what scores read
    return found


def atom_signals(
    table: Table, observations: Sequence[Observation], trained: Trained
) -> dict[str, NDArray[np.float64]]:
    """Return what is known of every atom, shape (F, N) each."""
    prints = fingerprints(table, observations, trained.elements)
    scale = np.array([trained.spreads[int(z)] for z in table.numbers])
    pairs = zip(prints, table.descriptors, strict=True)
    both = [
        (trained.geometry.of_atoms(table.numbers, p), trained.novelty.of_atoms(table.numbers, d))
        for p, d in pairs
    ]
    return {
        "force_spread": table.atom_spreads,
        "element_spread": table.atom_spreads / scale,
        "geometry_novelty": np.array([geometry for geometry, _ in both]),
        "novelty": np.array([novelty for _, novelty in both]),
        "force": np.linalg.norm(table.forces.mean(1), axis=-1),
    }


def stretch(table: Table) -> NDArray[np.float64]:
    """Return how much the most changed initial bond is, |ln(r / r0)|, shape (F,)."""
    radii = covalent_radii[table.numbers]
    first, second = np.triu_indices(len(table.numbers), 1)
    lengths = np.linalg.norm(table.positions[:, first] - table.positions[:, second], axis=-1)
    changes = []
    for positions in table.starts:
        start = np.linalg.norm(positions[first] - positions[second], axis=-1)
        bonded = start < 1.3 * (radii[first] + radii[second])
        changes.append(np.abs(np.log(lengths[:, bonded] / start[bonded])).max(1))
    return np.maximum(np.min(changes, axis=0), LEAST)


def bond_order_change(table: Table) -> NDArray[np.float64]:
    """Return how much the most changed bond order of any pair is, |n - n0|, shape (F,).

    n = exp((R_i + R_j - r) / 0.3 A), cut at 1.
    """
    radii = covalent_radii[table.numbers]
    first, second = np.triu_indices(len(table.numbers), 1)
    reach = radii[first] + radii[second]

    def orders(positions: NDArray[np.float64]) -> NDArray[np.float64]:
        lengths = np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)
        return np.minimum(1.0, np.exp((reach - lengths) / 0.3))

    changes = [np.abs(orders(table.positions) - orders(start)).max(1) for start in table.starts]
    return np.maximum(np.min(changes, axis=0), LEAST)


class ReliabilityHead:
    """Ridge regression of the logarithm of each atom's force error; a frame is its worst atom.

    Features: logarithms of the atom's signals, their squares, its element, and
    its first descriptors in the clouds' coordinates.  Atoms of the worst tenth
    count ten times, so that the rare ones are not drowned.
    """

    PENALTY = 10.0
    AXES = 8

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self._weights = np.zeros(0)
        self._centre = np.zeros(0)
        self._scale = np.ones(0)

    def fit(self, rows: Sequence[tuple[Table, Mapping[str, NDArray[np.float64]]]]) -> None:
        """Learn from tables with their atoms' signals."""
        features = np.concatenate([self._features(table, atoms) for table, atoms in rows])
        errors = np.concatenate([np.maximum(table.atom_errors, 1e-3).ravel() for table, _ in rows])
        self._centre, self._scale = features.mean(0), features.std(0) + 1e-9
        points = np.column_stack([(features - self._centre) / self._scale, np.ones(len(features))])
        share = np.where(errors >= np.quantile(errors, 0.9), 10.0, 1.0)
        gram = (points * share[:, None]).T @ points + self.PENALTY * np.eye(points.shape[1])
        self._weights = np.linalg.solve(gram, (points * share[:, None]).T @ np.log(errors))

    def scores(self, table: Table, atoms: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the largest expected error of each frame, eV/A, shape (F,)."""
        features = (self._features(table, atoms) - self._centre) / self._scale
        expected = np.column_stack([features, np.ones(len(features))]) @ self._weights
        return np.exp(expected.reshape(len(table), -1).max(1))

    def _features(
        self, table: Table, atoms: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        logs = np.stack(
            [
                np.log(np.clip(atoms[name], 1e-4, 1e4))
                for name in ("force_spread", "geometry_novelty", "novelty", "force")
            ],
            axis=-1,
        )
        kinds = np.array([table.numbers == z for z in self._trained.elements], dtype=float).T
        kinds = np.broadcast_to(kinds, (len(table), *kinds.shape))
        places = np.zeros((*table.descriptors.shape[:2], self.AXES))
        for z, cloud in self._trained.novelty.clouds.items():
            mine = table.numbers == z
            if mine.any():
                flat = table.descriptors[:, mine].reshape(-1, table.descriptors.shape[-1])
                found = np.clip(cloud.coordinates(flat)[:, : self.AXES], -5, 5)
                places[:, mine, : found.shape[1]] = found.reshape(len(table), mine.sum(), -1)
        features = np.concatenate([logs, logs**2, kinds, places], axis=-1)
        return features.reshape(-1, features.shape[-1])
