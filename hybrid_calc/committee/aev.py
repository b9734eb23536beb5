"""The atomic environment vectors of ANI and their derivative in closed form.

Equations 3 and 4 of Smith, Isayev and Roitberg, Chem. Sci. 8, 3192 (2017), as
NeuroChem and torchani 2.0 evaluate them.  Pair vectors are float64, so that
molecules far from the origin keep their digits; the functions are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRIPLES_PER_BLOCK = 1024
"""Bounds memory and keeps intermediates in the cache: larger blocks measured slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AevConstants:
    """Radii, widths and shifts of the symmetry functions, A and rad.

    Attributes
    ----------
    radial_cutoff, angular_cutoff
        Radius of the environment for pairs and for triples, A.
    radial_eta, radial_shifts
        Width (A^-2) and centres (A) of the pair functions, R of them.
    angular_eta, angular_shifts
        Width (A^-2) and centres (A) of the triple functions in distance, D of them.
    zeta, angles
        Power and centres (rad) of the triple functions in angle, Z of them.
    """

    radial_cutoff: float
    angular_cutoff: float
    radial_eta: float
    radial_shifts: Tensor
    angular_eta: float
    angular_shifts: Tensor
    zeta: int
    angles: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Directed pairs and the triples around each centre, over all atoms of a pass.

    Attributes
    ----------
    centre, other
        Atoms of each pair, sorted by centre, shape (P,).
    vector
        From centre to other, A, float64, shape (P, 3).
    first, second
        Pairs with the same centre within the angular cutoff, shape (T,).
    """

    centre: NDArray[np.int64]
    other: NDArray[np.int64]
    vector: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RadialTerms:
    """Pair functions of a pass: the first S R columns of the AEV, and their slopes.

    Attributes
    ----------
    rows
        Centre and element of each pair as one row number, shape (P,).
    slopes
        Derivative with respect to the distance, A^-1, shape (P, R).
    unit
        From centre to other, shape (P, 3).
    values
        Shape (N, S R).
    """

    rows: Tensor
    slopes: Tensor
    unit: Tensor
    values: Tensor

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Return dE/d(pair vector), shape (P, 3, M), from dE/d(values), (N, M, S R)."""
        gathered = _by_row(gradients, self.slopes.shape[1], self.rows)
        return self.unit[:, :, None] * torch.bmm(self.slopes[:, None], gathered)


@dataclass(frozen=True, slots=True, kw_only=True)
class AngularTerms:
    """Triple functions of a pass: the other columns of the AEV, and their slopes.

    A triple function is a product of cutoffs, a function of the mean distance
    and a function of the angle; the axis of three picks the derivative: none
    (that is, of the cutoffs), by mean distance, by cosine.

    Attributes
    ----------
    rows
        Centre and pair of elements of each triple as one row number, shape (T,).
    lengths
        Factor in distance, shape (T, 3, D).
    turns
        Factor in angle, shape (T, 3, Z).
    frames
        What each derivative does to x, y, z of both pair vectors, with the
        cutoffs multiplied in, A^-1, shape (3, 6, T).
    values
        Shape (N, S (S + 1) / 2 D Z).
    """

    rows: Tensor
    lengths: Tensor
    turns: Tensor
    frames: Tensor
    values: Tensor

    def pull_back(self, gradients: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of triples with dE/d(both pair vectors), shape (block, 2, 3, M).

        ``gradients`` is dE/d(values), (N, M, columns).
        """
        width = self.lengths.shape[2] * self.turns.shape[2]
        for start in range(0, len(self.rows), TRIPLES_PER_BLOCK):
            block = slice(start, start + TRIPLES_PER_BLOCK)
            slopes = _outer(self.lengths[block], self.turns[block])
            gathered = _by_row(gradients, width, self.rows[block])
            # Triples last: 3 x 6 by 3 x M products vectorise over triples only.
            scalars = torch.bmm(slopes, gathered).permute(1, 2, 0).contiguous()
            frames = self.frames[:, :, None, block]
            pulled = frames[0] * scalars[0]
            pulled.addcmul_(frames[1], scalars[1]).addcmul_(frames[2], scalars[2])
            members, count = pulled.shape[1:]
            yield block, pulled.view(-1, count).T.reshape(count, 2, 3, members)


def find_neighbours(molecules: Sequence[NDArray[np.float64]], aev: AevConstants) -> Neighbours:
    """Return the pairs and triples of several molecules, with atoms numbered through.

    Parameters
    ----------
    molecules
        Positions, A, shape (atoms, 3) each.
    aev
        For the cutoffs.
    """
    centres, others, vectors, offset = [], [], [], 0
    for positions in molecules:
        square = np.zeros((len(positions), len(positions)))
        for axis in positions.T:
            square += (axis[:, None] - axis) ** 2
        np.fill_diagonal(square, np.inf)
        i, j = np.nonzero(square <= aev.radial_cutoff**2)
        centres.append(i + offset)
        others.append(j + offset)
        vectors.append(positions[j] - positions[i])
        offset += len(positions)
    centre, vector = np.concatenate(centres), np.concatenate(vectors)
    close = np.flatnonzero((vector**2).sum(axis=1) <= aev.angular_cutoff**2)
    counts = np.bincount(centre[close], minlength=offset)
    # A close pair makes a triple with each close pair before it at the same centre.
    before = np.arange(len(close)) - np.repeat(np.cumsum(counts) - counts, counts)
    second = np.repeat(np.arange(len(close)), before)
    steps = np.arange(len(second)) - np.repeat(np.cumsum(before) - before, before)
    return Neighbours(
        centre=centre,
        other=np.concatenate(others),
        vector=vector,
        first=close[second - 1 - steps],
        second=close[second],
    )


def radial_terms(
    aev: AevConstants, near: Neighbours, species: NDArray[np.int64], elements: int
) -> RadialTerms:
    """Evaluate eq. 3 of the ANI paper, with NeuroChem's factor of 1/4.

    ``species`` numbers the elements of all atoms from 0 to ``elements`` - 1.
    """
    vector = torch.from_numpy(near.vector)
    distance = vector.norm(dim=1, keepdim=True)
    offset = (distance - aev.radial_shifts).float()
    cutoff, slope = _cutoff(distance, aev.radial_cutoff)
    bell = 0.25 * torch.exp(-aev.radial_eta * offset**2)
    rows = torch.from_numpy(near.centre * elements + species[near.other])
    sums = bell.new_zeros((len(species) * elements, bell.shape[1]))
    return RadialTerms(
        rows=rows,
        slopes=bell * (slope - 2 * aev.radial_eta * offset * cutoff),
        unit=(vector / distance).float(),
        values=sums.index_add_(0, rows, bell * cutoff).view(len(species), -1),
    )


def angular_terms(
    aev: AevConstants, near: Neighbours, species: NDArray[np.int64], elements: int
) -> AngularTerms:
    """Evaluate eq. 4 of the ANI paper, with torchani's 0.95 before the cosine.

    ``species`` numbers the elements of all atoms from 0 to ``elements`` - 1.
    """
    first, second = torch.from_numpy(near.first), torch.from_numpy(near.second)
    vector = torch.from_numpy(np.ascontiguousarray(near.vector.T))
    distance = vector.norm(dim=0)
    unit = vector / distance
    cosine = (unit.index_select(1, first) * unit.index_select(1, second)).sum(dim=0)
    lengths = _lengths(aev, (distance[first] + distance[second]) / 2)
    turns = _turns(aev, cosine)
    cutoff, slope = _cutoff(distance, aev.angular_cutoff)
    both = 2 * cutoff[first] * cutoff[second]
    types = _pair_types(elements)
    kinds = types[species[near.other[near.first]], species[near.other[near.second]]]
    count = int(types.max()) + 1
    rows = torch.from_numpy(near.centre[near.first] * count + kinds)
    plain = _outer(lengths[:, 0], turns[:, 0]) * both[:, None]
    sums = plain.new_zeros((len(species) * count, plain.shape[1]))
    frames = both.new_empty((3, 2, 3, len(first)))
    bend, unit, over = cosine.float(), unit.float(), (1 / distance).float()
    for side, (here, there) in enumerate(((first, second), (second, first))):
        axis = unit.index_select(1, here)
        frames[0, side] = 2 * slope[here] * cutoff[there] * axis
        frames[1, side] = both / 2 * axis
        frames[2, side] = both * over[here] * (unit.index_select(1, there) - bend * axis)
    return AngularTerms(
        rows=rows,
        lengths=lengths,
        turns=turns,
        frames=frames.view(3, 6, -1),
        values=sums.index_add_(0, rows, plain).view(len(species), -1),
    )


def atom_gradients(
    near: Neighbours, radial: RadialTerms, angular: AngularTerms, gradients: Tensor
) -> Tensor:
    """Return dE/d(position), float64, shape (N, 3, M), from dE/d(AEV), (N, M, L)."""
    split = radial.values.shape[1]
    pairs = radial.pull_back(gradients[:, :, :split])
    first, second = torch.from_numpy(near.first), torch.from_numpy(near.second)
    for block, pulled in angular.pull_back(gradients[:, :, split:]):
        pairs.index_add_(0, first[block], pulled[:, 0])
        pairs.index_add_(0, second[block], pulled[:, 1])
    pairs = pairs.double()
    atoms = pairs.new_zeros((len(gradients), *pairs.shape[1:]))
    atoms.index_add_(0, torch.from_numpy(near.other), pairs)
    return atoms.index_add_(0, torch.from_numpy(near.centre), pairs, alpha=-1)


def _by_row(gradients: Tensor, width: int, rows: Tensor) -> Tensor:
    """Gather (width, M) for each row from (N, M, columns), shape (rows, width, M)."""
    atoms, members, columns = gradients.shape
    parts = gradients.reshape(atoms, members, columns // width, width).transpose(1, 2)
    table = parts.reshape(-1, members * width)
    return table.index_select(0, rows).view(-1, members, width).transpose(1, 2)


def _outer(lengths: Tensor, turns: Tensor) -> Tensor:
    return (lengths[..., :, None] * turns[..., None, :]).flatten(-2)


def _cutoff(distance: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Return the cosine cutoff and its slope, float32."""
    phase = (distance * (math.pi / radius)).float()
    return 0.5 * torch.cos(phase) + 0.5, -0.5 * math.pi / radius * torch.sin(phase)


def _lengths(aev: AevConstants, mean: Tensor) -> Tensor:
    """Return the distance factor as `AngularTerms` wants it, from (T,)."""
    offset = (mean - aev.angular_shifts[:, None]).float()
    bell = torch.exp(-aev.angular_eta * offset**2)
    slope = -2 * aev.angular_eta * offset * bell
    return torch.stack([bell, slope, bell]).permute(2, 0, 1).contiguous()


def _turns(aev: AevConstants, cosine: Tensor) -> Tensor:
    """Return the angle factor as `AngularTerms` wants it, from (T,).

    cos(theta - theta_s) is expanded, so no arc cosine is taken.
    """
    scaled = 0.95 * cosine
    sine = torch.sqrt(1 - scaled**2)
    lean, rise = torch.cos(aev.angles)[:, None], torch.sin(aev.angles)[:, None]
    half = ((1 + scaled * lean + sine * rise) / 2).float()
    slope = (0.475 * (lean - scaled / sine * rise)).float()
    power = _power(half, aev.zeta - 1)
    plain = power * half
    return torch.stack([plain, plain, aev.zeta * power * slope]).permute(2, 0, 1).contiguous()


def _power(base: Tensor, exponent: int) -> Tensor:
    """Return a whole power by squaring, four times faster than `torch.pow`."""
    result = torch.ones_like(base)
    while exponent:
        if exponent % 2:
            result = result * base
        base, exponent = base * base, exponent // 2
    return result


def _pair_types(elements: int) -> NDArray[np.int64]:
    """Return the number of each unordered pair of elements, shape (S, S)."""
    types = np.zeros((elements, elements), dtype=np.int64)
    rows, columns = np.triu_indices(elements)
    types[rows, columns] = types[columns, rows] = np.arange(len(rows))
    return types


def aev_columns(present: tuple[int, ...], elements: int, aev: AevConstants) -> Tensor:
    """Return the AEV columns that pairs and triples of these elements can fill."""
    radial, angular = len(aev.radial_shifts), len(aev.angular_shifts) * len(aev.angles)
    types = _pair_types(elements)[np.ix_(present, present)][np.triu_indices(len(present))]
    singles = np.asarray(present)[:, None] * radial + np.arange(radial)
    triples = elements * radial + types[:, None] * angular + np.arange(angular)
    return torch.from_numpy(np.concatenate([singles.ravel(), triples.ravel()]))
