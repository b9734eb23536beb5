"""Bonds that look broken: where the stability of a state is examined."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from hybrid_calc.flags.contacts import pair_distances, pairs_of

STRETCHED_RATIO, OPEN_RATIO, FAR_RATIO = 1.25, 1.75, 2.7
"""Distances over the sum of covalent radii that `has_open_bonds` judges by."""

NEIGHBOURS = {6: 3, 7: 3, 8: 2}
"""Bonded neighbours below which an atom lacks a bond; one for other elements."""


def has_open_bonds(atoms: Atoms) -> bool:
    """Tell whether some pair is too far apart for a bond and too near for strangers.

    A pair without a bonded neighbour in common, 1.25 to 1.75 times the sum of
    its covalent radii apart; or up to 2.7 times where both atoms lack a bond.
    Nothing is wrong with such a geometry: the stability of its state is examined.
    """
    pairs = pairs_of(atoms.numbers)
    if not len(pairs.radii_sum):
        return False
    ratio = pair_distances(atoms, pairs) / pairs.radii_sum
    bonded = np.zeros((len(atoms), len(atoms)), dtype=bool)
    bonded[pairs.first, pairs.second] = ratio < STRETCHED_RATIO
    bonded |= bonded.T
    shared = (bonded[pairs.first] & bonded[pairs.second]).any(axis=1)
    wanted = np.array([NEIGHBOURS.get(int(number), 1) for number in atoms.numbers])
    lacking = bonded.sum(axis=1) < wanted
    both = lacking[pairs.first] & lacking[pairs.second]
    apart = np.where(both, FAR_RATIO, OPEN_RATIO)
    return bool(((ratio > STRETCHED_RATIO) & (ratio < apart) & ~shared).any())
