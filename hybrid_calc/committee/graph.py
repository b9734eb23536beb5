"""Frames to one `Graph` for the stack, and edge gradients back to forces and stress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor, nn

from hybrid_calc.committee.convolution import BLOCK_BYTES, Receivers
from hybrid_calc.committee.edges import Harmonics, Radial
from hybrid_calc.committee.evaluate import Graph, PairFeatures
from hybrid_calc.committee.neighbours import DEFAULT_SKIN, NeighbourLists, Pairs
from hybrid_calc.committee.polynomial import Group
from hybrid_calc.errors import CommitteeError

STACK_BYTES = 64 << 20
"""Radial weights of all members up to which they are evaluated together, bytes."""

VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Row and column of the six Voigt components xx, yy, zz, yz, xz, xy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Sizes to pad a graph to: pairs P, the empty ones included, and slots K per receiver."""

    pairs: int
    slots: int

    def __le__(self, other: Room) -> bool:
        return self.pairs <= other.pairs and self.slots <= other.slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A graph and the way back to the frames.

    Attributes
    ----------
    graph
        What the stack evaluates, N atoms sorted by element.
    order
        Atom of the frames, one after another, at each place of the graph, shape (N,).
    rank
        Place in the graph of each atom, shape (N,).
    volumes
        Cell volume per frame, A^3, 0 for molecules, shape (F,).
    """

    graph: Graph
    order: Tensor
    rank: Tensor
    volumes: NDArray[np.float64]

    def per_atom(self, values: Tensor) -> NDArray[np.float64]:
        """Return values (..., N, d) in the order of the frames."""
        return np.asarray(values.index_select(-2, self.rank).cpu().double().numpy())

    def forces(self, gradients: Tensor) -> NDArray[np.float64]:
        """Return forces (M, N, 3), eV/A, in the order of the frames, from pair gradients."""
        pairs = self.graph.pairs
        forces = gradients.new_zeros(gradients.shape[0], len(self.order), 3)
        forces.index_add_(1, pairs.first, gradients)
        forces.index_add_(1, pairs.second, gradients, alpha=-1)
        return self.per_atom(forces)

    def stress(self, gradients: Tensor) -> NDArray[np.float64] | None:
        """Return stress (M, F, 6), Voigt, eV/A^3, from pair gradients; None for molecules.

        The strain derivative of the energy, symmetrised, over the volume.
        """
        if not self.volumes.any():
            return None
        pairs, graph = self.graph.pairs, self.graph
        vectors = pairs.unit * pairs.distance
        outer = vectors.unsqueeze(-1) * gradients.unsqueeze(-2)
        total = outer.new_zeros(gradients.shape[0], graph.frames, 3, 3)
        total.index_add_(1, graph.frame.index_select(0, pairs.first), outer)
        total = 0.5 * (total + total.transpose(-1, -2))
        virial = total.cpu().double().numpy()[..., VOIGT[0], VOIGT[1]]
        return np.asarray(virial / np.where(self.volumes > 0, self.volumes, np.inf)[:, None])


class GraphBuilder:
    """Builds graphs for one architecture; safe to share between threads.

    Parameters
    ----------
    numbers
        Atomic number of each element index.
    cutoff
        Radius of an atom's environment, A.
    harmonics
        Spherical harmonics of the architecture.
    radial
        Radial basis of the architecture.
    pair
        Pair energy that all members share, with the arguments of the radial
        basis, to energies per atom; None where there is none.
    members
        Members M that will evaluate the graphs.
    width
        Radial weights per pair and member, of the widest layer.
    skin
        Extra radius of the neighbour lists, A.
    """

    def __init__(
        self,
        *,
        numbers: Sequence[int],
        cutoff: float,
        harmonics: Harmonics,
        radial: Radial,
        pair: nn.Module | None = None,
        members: int,
        width: int,
        skin: float = DEFAULT_SKIN,
    ) -> None:
        self.numbers = list(numbers)
        self.cutoff = cutoff
        self.neighbours = NeighbourLists(cutoff, skin=skin)
        self._harmonics = harmonics
        self._radial = radial
        self._pair = pair
        self._members = members
        self._width = width
        self._index = np.full(max(numbers) + 1, -1, dtype=np.int64)
        self._index[self.numbers] = np.arange(len(self.numbers))
        self._dtype = torch.float64
        self._device = torch.device("cpu")
        self._numbers = torch.tensor(self.numbers)

    def to(self, dtype: torch.dtype, device: torch.device) -> GraphBuilder:
        """Build from now on in this precision, on this device; returns itself."""
        self._dtype, self._device = dtype, device
        self._harmonics.to(dtype, device)
        self._radial.to(dtype, device)
        if self._pair is not None:
            self._pair.to(device=device, dtype=dtype)
        self._numbers = self._numbers.to(device)
        return self

    def needs(self, atoms: Atoms) -> Room:
        """Return the smallest room a frame fits in."""
        pairs = self.neighbours.pairs(atoms)
        ends = np.concatenate([pairs.first, pairs.second])
        return Room(pairs=len(pairs.first) + 1, slots=int(np.bincount(ends, minlength=1).max()))

    def build(self, frames: Sequence[Atoms], *, room: Room | None = None) -> Batch:
        """Return one graph for all frames; their elements must be known.

        Parameters
        ----------
        frames
            What to evaluate.
        room
            Sizes to pad to, all members and receivers then at once; None for
            no padding, in pieces that fit the cache.

        Raises
        ------
        CommitteeError
            Too many pairs for all members and receivers at once.
        """
        species = self._index[np.concatenate([atoms.numbers for atoms in frames])]
        order = np.argsort(species, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        lengths = np.array([len(atoms) for atoms in frames])
        pairs = _concatenate([self.neighbours.pairs(atoms) for atoms in frames], lengths)
        real = len(pairs.first)
        pairs = _with_empty(pairs, room.pairs if room else real + 1, beyond=2.0 * self.cutoff)
        volumes = [atoms.cell.volume if atoms.pbc.any() else 0.0 for atoms in frames]
        species = species[order]
        row = self._width * self._members * torch.finfo(self._dtype).bits // 8
        alone = row * len(pairs.first) > STACK_BYTES
        if alone and room is not None:
            raise CommitteeError(
                f"{real} pairs of neighbours in {len(order)} atoms are too many for a compiled "
                "committee, which would not be faster there. Set compile: false (compile=False)."
            )
        features, harmonics = self._features(pairs, species, rank)
        graph = Graph(
            species=self._tensor(species),
            groups=_groups(species),
            frame=self._tensor(np.repeat(np.arange(len(frames)), lengths)[order]),
            frames=len(frames),
            pairs=features,
            edges=2 * len(pairs.first) - 1,
            receivers=self._receivers(
                pairs,
                order,
                rank,
                harmonics,
                real=real,
                slots=room.slots if room else None,
                row=row // self._members if alone else row,
            ),
            members_at_once=1 if alone else self._members,
        )
        return Batch(
            graph=graph,
            order=self._tensor(order),
            rank=self._tensor(rank),
            volumes=np.asarray(volumes),
        )

    def _features(
        self, pairs: Pairs, species: NDArray[np.int64], rank: NDArray[np.int64]
    ) -> tuple[PairFeatures, Tensor]:
        """Return what members see of the pairs; harmonics of all forward edges, backward, none."""
        lengths = np.sqrt(np.einsum("ij,ij->i", pairs.vectors, pairs.vectors))[:, None]
        distance = self._tensor(lengths, self._dtype)
        with np.errstate(invalid="ignore"):  # atoms that coincide: NaN, which Prediction refuses
            unit = self._tensor(pairs.vectors / lengths, self._dtype)
        ends = self._tensor(rank[np.stack([pairs.first, pairs.second])])
        one_hot = torch.nn.functional.one_hot(self._tensor(species), len(self.numbers))
        place = (one_hot.to(self._dtype), ends, self._numbers)
        with torch.no_grad():
            values, slopes = self._harmonics(unit, distance)
            radial = self._radial(distance, *place)
        energy, slope = _pair_energy(self._pair, distance, place)
        parity = self._harmonics.parity
        harmonics = torch.cat([values, values * parity, torch.zeros_like(values[:1])])
        features = PairFeatures(
            first=ends[0],
            second=ends[1],
            forward=self._tensor(pairs.forward),
            backward=self._tensor(pairs.backward),
            distance=distance,
            unit=unit,
            harmonics_slope=slopes,
            parity=parity,
            radial=radial.basis,
            radial_slope=radial.slope,
            envelope=radial.envelope,
            envelope_slope=radial.envelope_slope,
            energy=energy,
            energy_slope=slope,
        )
        return features, harmonics

    def _receivers(
        self,
        pairs: Pairs,
        order: NDArray[np.int64],
        rank: NDArray[np.int64],
        harmonics: Tensor,
        *,
        real: int,
        slots: int | None,
        row: int,
    ) -> tuple[Receivers, ...]:
        """Return the edges by the atom they end at.

        In blocks of about equal size, or in one with so many slots.  The first
        ``real`` pairs are not empty; the edges after theirs stand nowhere but
        in the last one's empty slots.
        """
        count = len(pairs.first)
        edges = 2 * count - 1
        pair, sender, ends, turn = np.zeros((4, edges), dtype=np.int64)
        for edge, start, end, turned in (
            (pairs.forward, pairs.first, pairs.second, 0),
            (pairs.backward, pairs.second, pairs.first, count),
        ):
            pair[edge] = np.arange(count)
            sender[edge], ends[edge], turn[edge] = rank[start], end, pair[edge] + turned
        turn[-1] = 2 * count
        counts = np.bincount(ends[: 2 * real], minlength=len(order))
        starts = (np.cumsum(counts) - counts)[order]
        receivers = []
        rows = max(1, BLOCK_BYTES // row)
        for atoms, width in [(None, slots)] if slots else _blocks(counts[order], rows):
            chosen = slice(None) if atoms is None else atoms
            slot = np.arange(width)
            table = starts[chosen, None] + slot
            table[slot >= counts[order][chosen, None]] = edges - 1
            flat = table.ravel()
            receivers.append(
                Receivers(
                    atoms=None if atoms is None else self._tensor(atoms),
                    slots=width,
                    edges=self._tensor(flat),
                    pairs=self._tensor(pair[flat]),
                    senders=self._tensor(sender[flat]),
                    harmonics=harmonics.index_select(0, self._tensor(turn[flat])),
                )
            )
        return tuple(receivers)

    def _tensor(self, array: NDArray[np.generic], dtype: torch.dtype | None = None) -> Tensor:
        return torch.from_numpy(array).to(device=self._device, dtype=dtype)


def _concatenate(parts: Sequence[Pairs], lengths: NDArray[np.int64]) -> Pairs:
    """Return the pairs of all frames, atoms and edges numbered through."""
    if len(parts) == 1:
        return parts[0]
    atoms = np.cumsum(lengths) - lengths
    counts = np.array([len(part.first) for part in parts])
    edges = 2 * (np.cumsum(counts) - counts)
    return Pairs(
        first=np.concatenate([part.first for part in parts]) + np.repeat(atoms, counts),
        second=np.concatenate([part.second for part in parts]) + np.repeat(atoms, counts),
        vectors=np.concatenate([part.vectors for part in parts]),
        forward=np.concatenate([part.forward for part in parts]) + np.repeat(edges, counts),
        backward=np.concatenate([part.backward for part in parts]) + np.repeat(edges, counts),
    )


def _with_empty(pairs: Pairs, count: int, *, beyond: float) -> Pairs:
    """Append empty pairs up to a count; they have the last edge, which stands in empty slots."""
    more, edge = count - len(pairs.first), 2 * count - 2
    return Pairs(
        first=np.append(pairs.first, [0] * more),
        second=np.append(pairs.second, [0] * more),
        vectors=np.append(pairs.vectors, [[beyond, 0.0, 0.0]] * more, 0),
        forward=np.append(pairs.forward, [edge] * more),
        backward=np.append(pairs.backward, [edge] * more),
    )


def _blocks(counts: NDArray[np.int64], rows: int) -> Iterator[tuple[NDArray[np.int64] | None, int]]:
    """Cut atoms into blocks of about so many slots, those with many neighbours first."""
    slots = max(1, int(counts.max()))
    if slots * len(counts) <= rows:
        yield None, slots
        return
    falling = np.argsort(-counts, kind="stable")
    first = 0
    while first < len(falling):
        slots = max(1, int(counts[falling[first]]))
        size = max(1, rows // slots)
        yield falling[first : first + size], slots
        first += size


def _groups(species: NDArray[np.int64]) -> tuple[Group, ...]:
    kinds, firsts = np.unique(species, return_index=True)
    lasts = [*firsts[1:], len(species)]
    return tuple(
        Group(element=int(kind), first=int(first), last=int(last))
        for kind, first, last in zip(kinds, firsts, lasts, strict=True)
    )


def _pair_energy(
    pair: nn.Module | None, distance: Tensor, place: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Return energy per atom (N,), and the slope of its sum with each pair's distance (P, 1)."""
    if pair is None:
        return None, None
    one_hot, ends, numbers = place
    edges = torch.cat([ends, ends.flip(0)], 1)
    with torch.enable_grad():
        leaf = distance.detach().clone().requires_grad_()
        energy = pair(torch.cat([leaf, leaf]), one_hot, edges, numbers)
        (slope,) = torch.autograd.grad(energy.sum(), leaf)
    return energy.detach(), slope
