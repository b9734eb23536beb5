"""The regime of frames that no run has watched: labels from elsewhere, frames of a label farm.

A regime is judged against an initial graph, and such a frame has none.  In
order: a structure that somebody gives; the first frame of its group whose
bonds are whole; covalent radii.  What was used is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.flags.contacts import (
    Pairs,
    atoms_of,
    close_contacts,
    own_image_contacts,
    pair_distances,
    pairs_of,
)
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.flags.topology import (
    BondGraph,
    bond_flags,
    breaking_bonds,
    forming_bonds,
    initial_graph,
)
from hybrid_calc.gate.regime import classify
from hybrid_calc.geometry import composition_of

HYDROGEN = 1
STRETCHED_RATIO, OPEN_RATIO, FAR_RATIO = 1.25, 1.75, 2.2
"""Distances over the sum of covalent radii that `open_bond_flags` judges by."""

USUAL_BONDS = {1: 1, 6: 3, 7: 2, 8: 1, 9: 1, 14: 3, 15: 3, 16: 1, 17: 1, 35: 1, 53: 1}
"""Bonded neighbours below which an atom lacks a bond; of other elements nothing is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What is known about a frame that no run has watched.

    Attributes
    ----------
    regime
        As `hybrid_calc.gate.regime.Regime` prints it.
    flags
        Those that are up, as text.
    judged_by
        Where the initial graph comes from: ``structure``, ``group`` or ``radii``.
    """

    regime: str
    flags: tuple[str, ...]
    judged_by: str


class Annotator:
    """Judge frames one after another.

    Frames of the same group with the same atoms in the same order, charge and
    multiplicity are judged against the first of them whose bonds are whole by
    covalent radii; those before it, and every frame where there are no groups,
    by radii alone.

    Parameters
    ----------
    limits
        Of the flags.
    structures
        Whose bonds are the initial graph of frames with the same atoms in the same order.
    temperature_kelvin
        At which the frames were sampled; None leaves temperature out.
    groups
        False where frames have nothing to do with each other, as in a set of many molecules.
    """

    def __init__(
        self,
        limits: FlagLimits | None = None,
        *,
        structures: Iterable[Atoms] = (),
        temperature_kelvin: float | None = None,
        groups: bool = True,
    ) -> None:
        self._limits = limits or FlagLimits()
        self._temperature = temperature_kelvin
        self._groups = groups
        self._given = {atoms.numbers.tobytes(): self._graph(atoms) for atoms in structures}
        self._first: dict[tuple[object, ...], BondGraph] = {}

    def annotate(self, atoms: Atoms, group: str = "") -> Annotation:
        """Return the regime of the next frame.

        Parameters
        ----------
        atoms
            The frame, charge and spin in ``info``.
        group
            Its trajectory or configuration; frames of different groups are
            never judged against each other.
        """
        composition = composition_of(atoms)
        numbers = atoms.numbers.tobytes()
        pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, pairs)
        flags = [*close_contacts(distances, pairs, self._limits.close_contact_ratio)]
        flags += own_image_contacts(atoms, self._limits.close_contact_ratio)
        open_bonds = open_bond_flags(distances, pairs, atoms.numbers)
        judged_by = "radii"
        graph = self._given.get(numbers)
        if graph is not None:
            judged_by = "structure"
        elif self._groups:
            key = (group, numbers, composition.charge, composition.multiplicity)
            if key not in self._first and not flags and not open_bonds:
                self._first[key] = self._graph(atoms)
            graph = self._first.get(key)
            judged_by = "radii" if graph is None else "group"
        flags += open_bonds if graph is None else self._changes(distances, graph, len(atoms))
        report = FlagReport(flags=tuple(flags), mean_temperature=self._temperature)
        return Annotation(
            regime=str(classify(composition, report, self._limits)),
            flags=tuple(map(str, flags)),
            judged_by=judged_by,
        )

    def _graph(self, atoms: Atoms) -> BondGraph:
        pairs = pairs_of(atoms.numbers)
        return initial_graph(
            pair_distances(atoms, pairs), pairs, len(atoms), self._limits.bonded_ratio
        )

    def _changes(
        self, distances: NDArray[np.float64], graph: BondGraph, atoms: int
    ) -> tuple[Flag, ...]:
        limits = self._limits
        return bond_flags(
            distances,
            graph,
            breaking_bonds(distances, graph, limits.breaking_ratio),
            forming_bonds(distances, graph, limits.forming_bond_order, limits.breaking_ratio),
            atoms=atoms,
            breaking_ratio=limits.breaking_ratio,
            forming_order=limits.forming_bond_order,
        )


def open_bond_flags(
    distances: NDArray[np.float64], pairs: Pairs, numbers: NDArray[np.integer]
) -> tuple[Flag, ...]:
    """Flag pairs too far apart for a bond and too near for strangers.

    Pairs without a bonded neighbour in common, 1.25 to 1.75 times the sum of
    their covalent radii apart, or up to 2.2 times where both atoms lack a
    bond.  A hydrogen that has its bond is no part of any: its neighbour is a
    hydrogen bond.  Pieces farther apart than that are separate molecules.

    Parameters
    ----------
    distances
        Of each pair, A, shape (P,).
    pairs
        Of the structure.
    numbers
        Of its atoms, shape (N,).
    """
    if not len(distances):
        return ()
    ratio = distances / pairs.radii_sum
    bonded = np.zeros((pairs.atoms, pairs.atoms), dtype=bool)
    bonded[pairs.first, pairs.second] = ratio < STRETCHED_RATIO
    bonded |= bonded.T
    neighbours = bonded.sum(axis=1)
    shared = (bonded[pairs.first] & bonded[pairs.second]).any(axis=1)
    usual = np.array([USUAL_BONDS.get(int(number), 0) for number in numbers])
    lacking = neighbours < usual
    sated = (numbers == HYDROGEN) & ~lacking
    strangers = shared | sated[pairs.first] | sated[pairs.second]
    both = lacking[pairs.first] & lacking[pairs.second]
    limit = np.where(both, FAR_RATIO, OPEN_RATIO)
    found = np.flatnonzero(~strangers & (ratio >= STRETCHED_RATIO) & (ratio < limit))
    if not len(found):
        return ()
    return (
        Flag(
            name="open_bond",
            severity=Severity.REGIME,
            atoms=atoms_of(found[np.argsort(ratio[found])], pairs),
            value=float(ratio[found].min()),
            limit=STRETCHED_RATIO,
        ),
    )
