"""The regime of frames that no run has watched: labels from elsewhere, frames of a label farm.

A regime is judged against an initial graph, and such a frame has none.  In
order: a structure that somebody gives; the first frame of its group whose
bonds are whole; covalent radii.  What was used is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.flags.bonds import BondWatch
from hybrid_calc.flags.contacts import (
    Pairs,
    atoms_of,
    own_image_contacts,
    pair_distances,
    pairs_of,
)
from hybrid_calc.flags.coordination import Sites
from hybrid_calc.flags.limits import FlagLimits
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.regime import RegimeRule, classify
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
    rules
        Regimes of the user's own.
    """

    def __init__(
        self,
        limits: FlagLimits | None = None,
        *,
        structures: Iterable[Atoms] = (),
        temperature_kelvin: float | None = None,
        groups: bool = True,
        rules: Sequence[RegimeRule] = (),
    ) -> None:
        self._limits = limits or FlagLimits()
        self._temperature = temperature_kelvin
        self._groups = groups
        self._rules = tuple(rules)
        self._given = {atoms.numbers.tobytes(): self._start(atoms) for atoms in structures}
        self._first: dict[tuple[object, ...], _Start] = {}

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
        start, judged_by = self._given.get(numbers), "structure"
        if start is None:
            alone = self._start(atoms)
            flags = self._look(alone, atoms, distances)
            flags += open_bond_flags(distances, pairs, atoms.numbers)
            key = (group, numbers, composition.charge, composition.multiplicity)
            if self._groups:
                if key not in self._first and not flags:
                    self._first[key] = alone
                start = self._first.get(key)
            judged_by = "radii" if start is None else "group"
        if start is not None:
            flags = self._look(start, atoms, distances)
        report = FlagReport(flags=tuple(flags), mean_temperature=self._temperature)
        return Annotation(
            regime=str(classify(composition, report, self._limits, self._rules)),
            flags=tuple(map(str, flags)),
            judged_by=judged_by,
        )

    def _start(self, atoms: Atoms) -> _Start:
        pairs = pairs_of(atoms.numbers)
        lengths = pair_distances(atoms, pairs)
        solid = bool(atoms.pbc.all())
        return _Start(
            bonds=BondWatch(atoms.numbers, pairs, lengths, self._limits, None),
            sites=Sites(atoms, self._limits.site_ratio) if solid else None,
        )

    def _look(self, start: _Start, atoms: Atoms, distances: NDArray[np.float64]) -> list[Flag]:
        flags = start.bonds.look(distances, moving=False, temperature=self._temperature)
        flags += own_image_contacts(atoms, self._limits.close_contact_ratio)
        if start.sites is not None and atoms.pbc.all():
            flags += start.sites.look(atoms, lasting=1)
        return flags


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What frames are judged against."""

    bonds: BondWatch
    sites: Sites | None


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
