"""Reading frames, with what to fall back to where a file cannot give one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.store.catalog import Catalog, Cataloguer
from hybrid_calc.store.part import Part, stamp_of
from hybrid_calc.store.record import Record


class FrameReader:
    """Read a store's frames from its files, or from the journals kept beside.

    Parameters
    ----------
    path
        Of the store.

    Attributes
    ----------
    damage
        One sentence per place that could not be read so far.
    rescued
        Content hashes of frames that a journal gave instead of their file.
    lost
        Of frames that are listed and can be read nowhere.
    """

    def __init__(self, path: Path) -> None:
        self._cataloguer = Cataloguer(path)
        self.damage: list[str] = []
        self.rescued: set[str] = set()
        self.lost: set[str] = set()

    def catalog(self) -> Catalog:
        """Return which frames there are now, and where."""
        return self._cataloguer.catalog()

    def journals(self) -> Catalog:
        """Return what all journals hold, kept ones included; reads them all."""
        return self._cataloguer.journals()

    def read(self, catalog: Catalog, places: NDArray[np.int64]) -> Iterator[tuple[int, Record]]:
        """Yield place and frame of some places, increasing.

        What a file cannot give comes from wherever else it is.
        """
        for first, part, indices in catalog.within(places):
            left = iter(indices.tolist())
            for index, record in self._from_part(part, indices):
                for missing in left:
                    if missing == index:
                        break
                    yield from self._elsewhere(catalog, first + missing, part, missing)
                yield first + index, record
            for missing in left:
                yield from self._elsewhere(catalog, first + missing, part, missing)

    def _from_part(self, part: Part, indices: NDArray[np.int64]) -> Iterator[tuple[int, Record]]:
        """Yield what a file can give; where it was replaced, what the new ones give."""
        if part.is_journal or stamp_of(part.path) == part.stamp:
            yield from part.read(indices, self.damage)
            return
        now = self.catalog()
        found = [now.find(part.identities[index].decode()) for index in indices.tolist()]
        known = [
            (place, index)
            for place, index in zip(found, indices.tolist(), strict=True)
            if place is not None
        ]
        index_at = dict(known)
        if sorted(index_at) == [place for place, _ in known]:
            for first, other, there in now.within(np.array(sorted(index_at), dtype=np.int64)):
                for index, record in other.read(there, self.damage):
                    yield index_at[first + index], record

    def _elsewhere(
        self, catalog: Catalog, place: int, part: Part, index: int
    ) -> Iterator[tuple[int, Record]]:
        """Yield a frame from the files as they are now, or from a kept journal, if it is there."""
        identity = part.identities[index].decode()
        now = self.catalog()
        for source in (*((now,) if now is not catalog else ()), self.journals()):
            found = source.find(identity)
            if found is None:
                continue
            for _, other, there in source.within(np.array([found])):
                for _, record in other.read(there, self.damage):
                    if source is not now:
                        self.rescued.add(identity)
                    yield place, record
                    return
        self.lost.add(identity)
