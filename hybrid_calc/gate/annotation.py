"""The regime of frames that no run has watched: labels from elsewhere, frames of a label farm.

A regime is judged against an initial graph, and such a frame has none.  What
stands in for it: a structure that somebody gives; the first frame of the
group, where frames are a path or a trajectory from a reactant on; else the
frame's own bonds by covalent radii, so that isomers in one set are each at
home, and what lies between them is reactive.  Which it was is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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

HYDROGEN, NEON = 1, 10
STRETCHED_RATIO, OPEN_RATIO, FAR_RATIO = 1.25, 1.75, 2.2
BENT_RATIOS = (1.12, 1.4, 1.6)
BRIDGE_RATIO = 1.4
"""Distances over the sum of covalent radii that `open_bond_flags` judges by."""

USUAL_BONDS = {1: 1, 6: 3, 7: 2, 8: 1, 9: 1, 14: 3, 15: 3, 16: 1, 17: 1, 35: 1, 53: 1}
"""Bonded neighbours below which an atom lacks a bond; of other elements nothing is expected."""

GROUP_KEYS = ("group", "trajectory", "run")
"""Keys of ``info`` that name what a frame belongs to."""

JudgedBy = Literal["structure", "first", "isomer", "radii"]


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
        What it was compared with: the ``structure`` given, the ``first`` frame
        of its group, the first frame of the same ``isomer``, or nothing but
        ``radii``, where bonds are open.
    """

    regime: str
    flags: tuple[str, ...]
    judged_by: JudgedBy


class Annotator:
    """Judge frames one after another.

    Parameters
    ----------
    limits
        Of the flags.
    structures
        Whose bonds are the initial graph of frames with the same atoms in the same order.
    from_first
        Judge each frame against the first of its group (same group, atoms,
        order, charge and multiplicity): a path or a trajectory from a reactant
        on.  Otherwise against the first with the same bonds.
    temperature_kelvin
        At which the frames were sampled; None leaves temperature out.
    rules
        Regimes of the user's own.
    """

    def __init__(
        self,
        limits: FlagLimits | None = None,
        *,
        structures: Iterable[Atoms] = (),
        from_first: bool = False,
        temperature_kelvin: float | None = None,
        rules: Sequence[RegimeRule] = (),
    ) -> None:
        self._limits = limits or FlagLimits()
        self._temperature = temperature_kelvin
        self._from_first = from_first
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
            Its trajectory or configuration.
        """
        composition = composition_of(atoms)
        numbers = atoms.numbers.tobytes()
        pairs = pairs_of(atoms.numbers)
        distances = pair_distances(atoms, pairs)
        judged_by: JudgedBy = "structure"
        start = self._given.get(numbers)
        if start is None:
            alone = self._start(atoms)
            flags = self._look(alone, atoms, distances)
            flags += open_bond_flags(distances, pairs, atoms.numbers)
            charges = (composition.charge, composition.multiplicity)
            if self._from_first:
                judged_by = "first"
                start = self._first.setdefault((group, numbers, *charges), alone)
            elif flags:
                judged_by = "radii"
            else:
                judged_by = "isomer"
                bonds = alone.bonds.graph.bonded.tobytes()
                start = self._first.setdefault((numbers, bonds, *charges), alone)
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
            sites=Sites(atoms, self._limits.site_margin) if solid else None,
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


def group_of(atoms: Atoms) -> str:
    """Return the group a frame says it belongs to; empty where it says nothing."""
    for key in GROUP_KEYS:
        if atoms.info.get(key) is not None:
            return str(atoms.info[key])
    return ""


def open_bond_flags(
    distances: NDArray[np.float64], pairs: Pairs, numbers: NDArray[np.integer]
) -> tuple[Flag, ...]:
    """Flag pairs too far apart for a bond and too near for strangers.

    In distances over the sum of covalent radii: pairs up to neon, or with an
    atom that lacks a bond, without a bonded neighbour in common from 1.25 to
    1.75, or up to 2.2 where both atoms lack a bond or one has none at all; a
    hydrogen that has its bond is no part of these, its neighbour is a hydrogen
    bond.  Pairs up to
    neon with one bonded neighbour in common from 1.12 to 1.4 (with hydrogen to
    1.6): an angle too sharp for anything but a ring of three that opens or an
    atom on its way along the bond.  Hydrogens with two ordinary atoms nearer
    than 1.4: on their way from one to the other.  Pieces farther apart than all
    that count as separate molecules.

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
    shared = (bonded[pairs.first] & bonded[pairs.second]).sum(axis=1)
    usual = np.array([USUAL_BONDS.get(int(number), 0) for number in numbers])
    lacking = neighbours < usual
    hydrogen = numbers == HYDROGEN
    sated = hydrogen & ~lacking
    strangers = (shared > 0) | sated[pairs.first] | sated[pairs.second]
    both = lacking[pairs.first] & lacking[pairs.second]
    one = lacking[pairs.first] | lacking[pairs.second]
    bare = lacking & (neighbours == 0)
    both |= bare[pairs.first] | bare[pairs.second]
    small = (numbers <= NEON)[pairs.first] & (numbers <= NEON)[pairs.second]
    limit = np.where(both, FAR_RATIO, np.where(small | one, OPEN_RATIO, 0.0))
    apart = ~strangers & (ratio >= STRETCHED_RATIO) & (ratio < limit)
    lowest, heavy, light = BENT_RATIOS
    bent_limit = np.where(hydrogen[pairs.first] | hydrogen[pairs.second], light, heavy)
    bent = small & (shared == 1) & (ratio >= lowest) & (ratio < bent_limit)
    ordinary = np.isin(numbers, list(USUAL_BONDS))
    near = np.zeros_like(bonded)
    near[pairs.first, pairs.second] = ratio < BRIDGE_RATIO
    near |= near.T
    bridging = hydrogen & ((near & ordinary).sum(axis=1) > 1)
    bridges = (ratio < BRIDGE_RATIO) & (bridging[pairs.first] | bridging[pairs.second])
    found = np.flatnonzero(apart | bent | bridges)
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
