"""Bonds that break and form against the initial graph, bond by bond.

Bond order n = exp((R_i + R_j - r) / 0.3 A) (Pauling 1947).  A fixed window on
n calls every eleventh ordinary frame at 300 K reactive, so each bond is
judged against its own initial length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hybrid_calc.flags.contacts import Pairs, atoms_of
from hybrid_calc.flags.report import Flag, Severity

ORDER_LENGTH = 0.3
"""Length over which a bond order falls by e, A."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BondGraph:
    """Which pairs were bonded at the start, and how long every pair was.

    Attributes
    ----------
    pairs
        All pairs of the structure.
    lengths
        Initial distance of each pair, A, shape (P,).
    bonded
        Whether the pair was bonded, shape (P,).
    fragments
        Number of connected parts at the start.
    """

    pairs: Pairs
    lengths: NDArray[np.float64]
    bonded: NDArray[np.bool_]
    fragments: int


def initial_graph(
    distances: NDArray[np.float64], pairs: Pairs, atoms: int, bonded_ratio: float
) -> BondGraph:
    """Return the graph all later geometries are judged against.

    Parameters
    ----------
    distances
        Of each pair, A, shape (P,).
    pairs
        Of the structure.
    atoms
        Number of atoms N.
    bonded_ratio
        Distance over the sum of covalent radii up to which a pair is bonded.
    """
    bonded = distances < bonded_ratio * pairs.radii_sum
    return BondGraph(
        pairs=pairs,
        lengths=distances.copy(),
        bonded=bonded,
        fragments=count_fragments(bonded, pairs, atoms),
    )


def breaking_bonds(
    distances: NDArray[np.float64], graph: BondGraph, ratio: float
) -> NDArray[np.bool_]:
    """Tell which initial bonds are longer than `ratio` times their initial length, shape (P,)."""
    return np.asarray(graph.bonded & (distances > ratio * graph.lengths))


def forming_bonds(
    distances: NDArray[np.float64], graph: BondGraph, order: float, ratio: float
) -> NDArray[np.bool_]:
    """Tell which pairs that were not bonded now are, shape (P,).

    A pair forms when its bond order passes `order` and it is shorter than its
    initial length over `ratio`, so that a short contact that was there from
    the start does not count.
    """
    reach = graph.pairs.radii_sum - ORDER_LENGTH * np.log(order)
    return np.asarray(~graph.bonded & (distances < reach) & (distances * ratio < graph.lengths))


def second_neighbours(graph: BondGraph, atoms: int) -> NDArray[np.bool_]:
    """Tell which pairs were not bonded but shared a neighbour at the start, shape (P,).

    Their distances are the angles of the molecule.
    """
    first, second = graph.pairs.first, graph.pairs.second
    bonds = np.zeros((atoms, atoms), dtype=np.intp)
    bonds[first[graph.bonded], second[graph.bonded]] = 1
    bonds += bonds.T
    return np.asarray(((bonds @ bonds)[first, second] > 0) & ~graph.bonded)


def quiet_range(
    graph: BondGraph, *, contact_ratio: float, breaking_ratio: float, forming_order: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances between which no pair clashes, breaks or forms, each shape (P,)."""
    reach = graph.pairs.radii_sum - ORDER_LENGTH * np.log(forming_order)
    forming = np.where(graph.bonded, 0.0, np.minimum(reach, graph.lengths / breaking_ratio))
    lowest = np.maximum(contact_ratio * graph.pairs.radii_sum, forming)
    highest = np.where(graph.bonded, breaking_ratio * graph.lengths, np.inf)
    return lowest, highest


def bond_flags(
    distances: NDArray[np.float64],
    graph: BondGraph,
    breaking: NDArray[np.bool_],
    forming: NDArray[np.bool_],
    *,
    atoms: int,
    breaking_ratio: float,
    forming_order: float,
) -> tuple[Flag, ...]:
    """Return the flags of the bonds that changed, and of the number of fragments."""
    flags = []
    broken = np.flatnonzero(breaking)
    if len(broken):
        stretch = distances[broken] / graph.lengths[broken]
        flags.append(
            Flag(
                name="bond_breaking",
                severity=Severity.REGIME,
                atoms=atoms_of(broken[np.argsort(-stretch)], graph.pairs),
                value=float(stretch.max()),
                limit=breaking_ratio,
            )
        )
    formed = np.flatnonzero(forming)
    if len(formed):
        orders = np.exp((graph.pairs.radii_sum[formed] - distances[formed]) / ORDER_LENGTH)
        flags.append(
            Flag(
                name="bond_forming",
                severity=Severity.REGIME,
                atoms=atoms_of(formed[np.argsort(-orders)], graph.pairs),
                value=float(orders.max()),
                limit=forming_order,
            )
        )
    if flags:
        bonded = (graph.bonded & ~breaking) | forming
        fragments = count_fragments(bonded, graph.pairs, atoms)
        if fragments != graph.fragments:
            flags.append(
                Flag(
                    name="fragments",
                    severity=Severity.REGIME,
                    atoms=tuple(dict.fromkeys(i for flag in flags for i in flag.atoms)),
                    value=float(fragments),
                    limit=float(graph.fragments),
                )
            )
    return tuple(flags)


def count_fragments(bonded: NDArray[np.bool_], pairs: Pairs, atoms: int) -> int:
    """Return the number of connected parts."""
    chosen = np.flatnonzero(bonded)
    matrix = coo_array(
        (np.ones(len(chosen)), (pairs.first[chosen], pairs.second[chosen])), shape=(atoms, atoms)
    )
    return int(connected_components(matrix, directed=False, return_labels=False))
