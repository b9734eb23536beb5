"""The last steps of a trajectory, as training ranges of a later calibration will ask for them.

A bond's length or an atom's neighbours must lie outside the training ranges
for some steps of dynamics before a flag goes up.  A stored frame is one step
of its run, and those before it are mostly not stored; so its record carries
what any ranges can be compared with: lengths and counts step by step, not
their extremes, which could not tell at which steps a bond was breaking, nor
answer for limits that ask for fewer steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.flags.contacts import pair_distances, pairs_of
from hybrid_calc.flags.coordination import coordination
from hybrid_calc.flags.topology import BondGraph, initial_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """Bonds and neighbours of a geometry of N atoms, and of the S - 1 steps before it.

    Attributes
    ----------
    bonds
        Both atoms of every bond of the trajectory's initial graph, shape (B, 2).
    initial
        Their lengths there, A, shape (B,).
    lengths
        At each step, the geometry itself last, A, shape (S, B).
    counts
        Neighbours of each atom (`coordination`), shape (S, N).
    kept
        Steps that are kept at most; where S is smaller the trajectory began
        with the first of them.
    """

    bonds: NDArray[np.intp]
    initial: NDArray[np.float64]
    lengths: NDArray[np.float64]
    counts: NDArray[np.float64]
    kept: int

    @classmethod
    def alone(cls, atoms: Atoms, bonded_ratio: float) -> Recent:
        """Return a geometry before which nothing is known; its bonds are its own."""
        pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, pairs)
        graph = initial_graph(distances, pairs, len(atoms), bonded_ratio)
        lengths = distances[graph.bonded]
        return cls(
            bonds=bonds_of(graph),
            initial=lengths,
            lengths=lengths[None],
            counts=coordination(distances, pairs)[None],
            kept=1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the geometry itself, JSON-able, digit for digit."""
        return {
            "kept": self.kept,
            "bonds": self.bonds.tolist(),
            "initial": self.initial.tolist(),
            "lengths": self.lengths[:-1].tolist(),
            "counts": self.counts[:-1].tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], atoms: Atoms) -> Recent:
        """Return what `to_dict` described, with its geometry."""
        pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, pairs)
        bonds = np.array(data["bonds"], dtype=np.intp).reshape(-1, 2)
        place = np.zeros((len(atoms), len(atoms)), dtype=np.intp)
        place[pairs.first, pairs.second] = np.arange(len(distances))
        lengths = [*data["lengths"], distances[place[bonds[:, 0], bonds[:, 1]]]]
        counts = [*data["counts"], coordination(distances, pairs)]
        return cls(
            bonds=bonds,
            initial=np.array(data["initial"], dtype=np.float64),
            lengths=np.array(lengths, dtype=np.float64),
            counts=np.array(counts, dtype=np.float64),
            kept=data["kept"],
        )


class Window:
    """The distances of the last steps, kept as they come and looked into where a frame is labelled.

    Parameters
    ----------
    graph
        Initial graph of the trajectory.
    steps
        To keep.

    Attributes
    ----------
    append
        Take in the distance of each pair at the next step, A, shape (P,); the
        array itself is kept, not a copy.
    """

    def __init__(self, graph: BondGraph, steps: int) -> None:
        self._graph, self._kept = graph, steps
        self._distances: deque[NDArray[np.float64]] = deque(maxlen=steps)
        self._before: dict[str, Any] | None = {"lengths": [], "counts": []}
        self.append = self._distances.append

    def recent(self) -> Recent | None:
        """Return what was seen last, None where that is not known for as many steps as it must."""
        known = self._before
        if known is None and len(self._distances) < self._kept:
            return None
        graph = self._graph
        lengths = [] if known is None else list(known["lengths"])
        counts = [] if known is None else list(known["counts"])
        lengths += [distances[graph.bonded] for distances in self._distances]
        counts += [coordination(distances, graph.pairs) for distances in self._distances]
        bonds, last = bonds_of(graph), slice(-self._kept, None)
        steps = len(lengths[last])
        return Recent(
            bonds=bonds,
            initial=graph.lengths[graph.bonded],
            lengths=np.array(lengths[last], dtype=np.float64).reshape(steps, len(bonds)),
            counts=np.array(counts[last], dtype=np.float64).reshape(steps, graph.pairs.atoms),
            kept=self._kept,
        )

    def state(self) -> dict[str, Any] | None:
        """Return what was seen last, JSON-able, None where that is not known."""
        recent = self.recent()
        if recent is None:
            return None
        return {
            "kept": recent.kept,
            "lengths": recent.lengths.tolist(),
            "counts": recent.counts.tolist(),
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` returned.

        From None, or a window of another length, nothing is known until the window is full again.
        """
        self._distances.clear()
        self._before = state if state is not None and state["kept"] == self._kept else None


def bonds_of(graph: BondGraph) -> NDArray[np.intp]:
    """Return both atoms of each initial bond, shape (B, 2)."""
    return np.column_stack([graph.pairs.first[graph.bonded], graph.pairs.second[graph.bonded]])
