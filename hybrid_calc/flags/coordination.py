"""How many neighbours each atom has, and sites of a solid that have others than its bulk."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hybrid_calc.flags.contacts import Pairs
from hybrid_calc.flags.report import Flag, Severity

NEIGHBOUR_RATIO = 1.3
"""Distance over the sum of covalent radii at which a pair counts half."""
NEIGHBOUR_WIDTH = 0.05
"""Of the step from 1 to 0 around it."""
RATIOS = np.arange(1.1, 1.61, 0.01)
"""Where in a solid it may lie: beyond the first neighbours, at most in the middle of the gap behind
the second ones of a body-centred metal."""


def coordination(distances: NDArray[np.float64], pairs: Pairs) -> NDArray[np.float64]:
    """Return the number of neighbours of each atom, counted smoothly, shape (N,).

    Each other atom counts 1 / (1 + exp((r / (R_i + R_j) - 1.3) / 0.05)), so
    that an atom that comes or goes changes it by a half when it is half way.

    Parameters
    ----------
    distances
        Of each pair, A, shape (P,).
    pairs
        Of the structure.
    """
    reach = (distances / pairs.radii_sum - NEIGHBOUR_RATIO) / NEIGHBOUR_WIDTH
    shares = 1 / (1 + np.exp(np.minimum(reach, 50.0)))
    count = np.bincount(pairs.first, weights=shares, minlength=pairs.atoms)
    return np.asarray(count + np.bincount(pairs.second, weights=shares, minlength=pairs.atoms))


def coordination_flags(
    counts: NDArray[np.float64],
    lowest: NDArray[np.float64],
    highest: NDArray[np.float64],
    outside: NDArray[np.bool_],
) -> tuple[Flag, ...]:
    """Return the flag of atoms whose coordination the training frames do not have.

    Parameters
    ----------
    counts
        `coordination`, shape (N,).
    lowest, highest
        What is still inside, margin included, shape (N,).
    outside
        Which atoms are outside, and long enough, shape (N,).
    """
    if not outside.any():
        return ()
    beyond = np.maximum(lowest - counts, counts - highest)
    who = np.flatnonzero(outside)
    who = who[np.argsort(-beyond[who])]
    worst = who[0]
    limit = lowest if counts[worst] < lowest[worst] else highest
    return (
        Flag(
            name="coordination",
            severity=Severity.REGIME,
            atoms=tuple(who.tolist()),
            value=float(counts[worst]),
            limit=float(limit[worst]),
        ),
    )


class Sites:
    """The bulk coordination of an extended solid, and the sites that deviate from it.

    The median coordination of an element in the first geometry is its bulk's.
    Where bonds do not lead from the cell to its own images (a molecule in a
    box, a molecular crystal) there is no bulk and nothing is flagged.  Where a
    neighbour counts half, between two shells of neighbours, is taken from that
    geometry, too: one value for all solids falls on a shell of some of them
    (1.2 on the first one of aluminium), and thermal motion then looks like a defect.

    Parameters
    ----------
    atoms
        First geometry, periodic in all directions.
    margin
        How far a site may deviate.

    Attributes
    ----------
    extended
        Whether there is a bulk.
    ratio
        Distance over the sum of covalent radii at which a neighbour counts half.
    """

    def __init__(self, atoms: Atoms, margin: float) -> None:
        self._margin = margin
        self.extended = _is_extended(atoms)
        self.ratio = ratio_between_shells(atoms) if self.extended else NEIGHBOUR_RATIO
        self._bulk = np.zeros(len(atoms))
        self._wrong_for = np.zeros(len(atoms), dtype=np.intp)
        if self.extended:
            counts = site_counts(atoms, self.ratio)
            for number in np.unique(atoms.numbers):
                kind = atoms.numbers == number
                self._bulk[kind] = np.median(counts[kind])

    def look(self, atoms: Atoms, *, lasting: int) -> tuple[Flag, ...]:
        """Return the flag of sites that deviate for at least so many geometries."""
        if not self.extended:
            return ()
        counts = site_counts(atoms, self.ratio)
        deviation = np.abs(counts - self._bulk)
        self._wrong_for = np.where(deviation > self._margin, self._wrong_for + 1, 0)
        who = np.flatnonzero(self._wrong_for >= lasting)
        if len(who) == 0:
            return ()
        who = who[np.argsort(-deviation[who], kind="stable")]
        return (
            Flag(
                name="site_coordination",
                severity=Severity.REGIME,
                atoms=tuple(who.tolist()),
                value=float(counts[who[0]]),
                limit=float(self._bulk[who[0]]),
            ),
        )

    def state(self) -> dict[str, Any]:
        """Return for how long each site has deviated, JSON-able; the rest is the start's."""
        return {"wrong_for": self._wrong_for.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._wrong_for = np.array(state["wrong_for"], dtype=np.intp)


def site_counts(atoms: Atoms, ratio: float) -> NDArray[np.float64]:
    """Return the number of neighbours of each atom, images included, shape (N,).

    Counted smoothly as `coordination` does, a half at `ratio` times the sum
    of the covalent radii.
    """
    first, second, lengths = _neighbours(atoms, ratio + 5 * NEIGHBOUR_WIDTH)
    radii = covalent_radii[atoms.numbers]
    reach = (lengths / (radii[first] + radii[second]) - ratio) / NEIGHBOUR_WIDTH
    shares = 1 / (1 + np.exp(reach))
    return np.asarray(np.bincount(first, weights=shares, minlength=len(atoms)), dtype=np.float64)


def ratio_between_shells(atoms: Atoms) -> float:
    """Return where between two shells of neighbours few distances lie.

    In units of the summed covalent radii: where the smooth count of neighbours, summed over all
    atoms, changes least with it.
    """
    first, second, lengths = _neighbours(atoms, RATIOS[-1] + 5 * NEIGHBOUR_WIDTH)
    radii = covalent_radii[atoms.numbers]
    places = np.sort(lengths / (radii[first] + radii[second]))
    reach = np.clip((places - RATIOS[:, None]) / NEIGHBOUR_WIDTH, -50.0, 50.0)
    shares = 1 / (1 + np.exp(reach))
    return float(RATIOS[np.argmin((shares * (1 - shares)).sum(axis=1))])


def _neighbours(
    atoms: Atoms, ratio: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return both ends and the length, A, of every pair closer than `ratio` times its radii."""
    from matscipy.neighbours import neighbour_list

    radii = covalent_radii[atoms.numbers]
    first, second, lengths = neighbour_list("ijd", atoms, 2 * ratio * float(radii.max()))
    near = lengths < ratio * (radii[first] + radii[second])
    return first[near], second[near], lengths[near]


def _is_extended(atoms: Atoms) -> bool:
    """Tell whether bonds lead from the cell to its own images.

    Eight cells of separate molecules are eight times as many molecules.
    """
    if not atoms.pbc.all():
        return False
    return _parts(atoms.repeat(2)) < 8 * _parts(atoms)


def _parts(atoms: Atoms) -> int:
    first, second, _ = _neighbours(atoms, NEIGHBOUR_RATIO)
    matrix = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms),) * 2)
    return int(connected_components(matrix, directed=False, return_labels=False))
