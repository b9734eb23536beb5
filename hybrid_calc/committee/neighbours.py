"""Who sees whom within a cut-off, from a list with a skin that is reused while it holds.

The list is built once with ``cutoff + skin`` and filtered by true distance at
every step, so what comes out is exact at every step and does not depend on
when the list was built: pairs and edges are always in the same order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

DEFAULT_SKIN = 0.5
"""Extra radius of the stored list, A; it is rebuilt when an atom moved half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """All pairs of atoms (or periodic images) closer than the cut-off, each once, and their edges.

    A pair is two edges, one to each end.

    Attributes
    ----------
    first, second
        Atoms of each pair, shape (P,).
    vectors
        Second (its image) minus first, A, shape (P, 3).
    forward, backward
        The pair's edge that ends at ``second``, and the one that ends at
        ``first``, shape (P,); edges are in ascending order of the atom they
        end at.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    vectors: NDArray[np.float64]
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Every pair within cut-off and skin of the positions it was built from."""

    positions: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    offsets: NDArray[np.float64] | None
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]

    def cover(self, positions: NDArray[np.float64], skin: float) -> bool:
        moved = positions - self.positions
        return bool(np.einsum("ij,ij->i", moved, moved).max() < (0.5 * skin) ** 2)

    def within(self, positions: NDArray[np.float64], cutoff: float) -> Pairs:
        vectors = positions[self.second] - positions[self.first]
        if self.offsets is not None:
            vectors += self.offsets
        near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
        if near.all():
            return Pairs(
                first=self.first,
                second=self.second,
                vectors=vectors,
                forward=self.forward,
                backward=self.backward,
            )
        forward, backward = self.forward[near], self.backward[near]
        kept = np.zeros(2 * len(near), dtype=np.int64)
        kept[forward] = kept[backward] = 1
        number = np.cumsum(kept) - 1
        return Pairs(
            first=self.first[near],
            second=self.second[near],
            vectors=vectors[near],
            forward=number[forward],
            backward=number[backward],
        )


class NeighbourLists:
    """Remembers candidate pairs of the structures seen last; safe to share between threads.

    Several lists are kept per composition and cell, so that the images of a
    band do not drive each other out.

    Parameters
    ----------
    cutoff
        Radius of an atom's environment, A.
    skin
        Extra radius of the stored lists, A.
    capacity
        Number of lists kept.
    """

    def __init__(self, cutoff: float, *, skin: float = DEFAULT_SKIN, capacity: int = 64) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.builds = 0
        self._capacity = capacity
        self._lists: OrderedDict[tuple[bytes, int], _Candidates] = OrderedDict()
        self._lock = Lock()

    def pairs(self, atoms: Atoms) -> Pairs:
        """Return the pairs closer than the cut-off at these positions."""
        positions = atoms.positions
        candidates = self._find(atoms, positions)
        if candidates is None:
            candidates = self._build(atoms)
        return candidates.within(positions, self.cutoff)

    def _find(self, atoms: Atoms, positions: NDArray[np.float64]) -> _Candidates | None:
        key = _frame_key(atoms)
        with self._lock:
            for (frame, serial), candidates in reversed(self._lists.items()):
                if frame == key and candidates.cover(positions, self.skin):
                    self._lists.move_to_end((frame, serial))
                    return candidates
        return None

    def _build(self, atoms: Atoms) -> _Candidates:
        candidates = _all_pairs(atoms, self.cutoff + self.skin)
        with self._lock:
            self.builds += 1
            self._lists[_frame_key(atoms), self.builds] = candidates
            while len(self._lists) > self._capacity:
                self._lists.popitem(last=False)
        return candidates


def _frame_key(atoms: Atoms) -> bytes:
    """Return what must be unchanged for a list to stay valid, besides the positions."""
    cell: bytes = atoms.cell.array.tobytes() if atoms.pbc.any() else b""
    key: bytes = atoms.numbers.tobytes() + atoms.pbc.tobytes() + cell
    return key


def _all_pairs(atoms: Atoms, radius: float) -> _Candidates:
    positions = atoms.get_positions()
    first, second, shifts = neighbour_list(
        "ijS", positions=positions, cell=_solid_cell(atoms, radius), pbc=atoms.pbc, cutoff=radius
    )
    once = (first < second) | ((first == second) & _is_positive(shifts))
    first, second, shifts = (part[once] for part in (first, second, shifts))
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], first, second))
    first, second = first[order].astype(np.int64), second[order].astype(np.int64)
    count = len(first)
    ends = np.concatenate([second, first])
    edge = np.empty(2 * count, dtype=np.int64)
    edge[np.argsort(ends, kind="stable")] = np.arange(2 * count)
    return _Candidates(
        positions=positions,
        first=first,
        second=second,
        offsets=shifts[order] @ atoms.cell.array if atoms.pbc.any() else None,
        forward=edge[:count],
        backward=edge[count:],
    )


def _is_positive(shifts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell for each lattice vector whether its first component that is not zero is positive."""
    x, y, z = np.sign(shifts).T
    return np.asarray(9 * x + 3 * y + z > 0)


def _solid_cell(atoms: Atoms, radius: float) -> NDArray[np.float64]:
    """Return a cell of full rank: open directions get a normal vector longer than the extent.

    The list's library only sorts atoms into bins along open directions, so
    nothing but the volume matters there.
    """
    cell = np.array(atoms.cell.array)
    cell[~atoms.pbc] = 0.0
    completed = np.array(Atoms(cell=cell).cell.complete())
    completed[~atoms.pbc] *= np.ptp(atoms.positions, axis=0).max() + 2.0 * radius
    return completed
