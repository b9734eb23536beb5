"""How far a frame's strangest environment is from those that were labelled before."""

from __future__ import annotations

from collections.abc import Sequence

import bench  # noqa: F401 - one thread, before numpy
import numpy as np
from gate_tables import Table
from numpy.typing import NDArray

from hybrid_calc.gate.novelty import Novelty

MOST = 5000
"""Labelled atoms of one element that distances are measured to; of more, some frames are taken."""
AT_ONCE = 500
"""Atoms whose distances to all of those are held at a time."""
BLOCKS = 10
"""Parts that independent frames are divided into."""
FAR = 1e6
"""Where nothing of that element was labelled."""
LEAST = 1e-6


class Labelled:
    """The environments of labelled frames, by element, in the coordinates of novelty.

    A frame is never compared with its own kin: other frames of its molecule
    where molecules are run, of its tenth of a table of independent frames.  So
    what a score is fitted on is as far from the rest as what it will rank.

    Parameters
    ----------
    tables
        Of the labelled frames.
    novelty
        Whose axes and spans are used: one is as far out as 99 % of the
        element's training atoms.
    """

    def __init__(self, tables: Sequence[Table], novelty: Novelty) -> None:
        self._novelty = novelty
        self._points: dict[int, dict[str, NDArray[np.float32]]] = {}
        for z, cloud in novelty.clouds.items():
            here = [table for table in tables if (table.numbers == z).any()]
            atoms = sum(len(table) * int((table.numbers == z).sum()) for table in here)
            every = max(1, -(-atoms // MOST))  # frames, so that no atom of a molecule is left out
            found: dict[str, list[NDArray[np.float32]]] = {}
            for table in here:
                for name, places in kin_of(table).items():
                    chosen = table.descriptors[places[::every]][:, table.numbers == z]
                    flat = chosen.reshape(-1, chosen.shape[-1])
                    found.setdefault(name, []).append(cloud.coordinates(flat))
            self._points[z] = {name: np.concatenate(parts) for name, parts in found.items()}

    def distances(self, tables: Sequence[Table]) -> NDArray[np.float64]:
        """Return the largest distance of any atom to the nearest labelled one, shape (F,)."""
        return np.concatenate([self._of(table) for table in tables])

    def _of(self, table: Table) -> NDArray[np.float64]:
        found = np.full((len(table), len(table.numbers)), FAR)
        for name, places in kin_of(table).items():
            for z, points in self._points.items():
                others = [part for kin, part in points.items() if kin != name]
                mine = np.flatnonzero(table.numbers == z)
                if not others or not len(mine):
                    continue
                here = table.descriptors[places][:, mine]
                flat = self._novelty.clouds[z].coordinates(here.reshape(-1, here.shape[-1]))
                near = nearest(flat, np.concatenate(others))
                found[np.ix_(places, mine)] = near.reshape(len(places), len(mine))
        return np.maximum(found.max(1), LEAST)


def nearest(here: NDArray[np.float32], there: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of every point to the nearest of some others, shape (n,)."""
    lengths = (there**2).sum(1)
    least = [
        (lengths - 2 * some @ there.T).min(1) + (some**2).sum(1)
        for some in (here[place : place + AT_ONCE] for place in range(0, len(here), AT_ONCE))
    ]
    return np.sqrt(np.maximum(np.concatenate(least), 0)).astype(np.float64)


def kin_of(table: Table) -> dict[str, NDArray[np.intp]]:
    """Return the places of frames that are kin, by a name that their kin elsewhere has."""
    if table.momenta is not None:
        return {table.molecule: np.arange(len(table))}
    parts = np.array_split(np.arange(len(table)), min(BLOCKS, len(table)))
    return {f"{table.name} {part}": places for part, places in enumerate(parts)}
