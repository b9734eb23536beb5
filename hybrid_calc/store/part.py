"""The frames that one file holds, an HDF5 file or a journal, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.columns import Columns
from hybrid_calc.store.hdf5 import read_rows
from hybrid_calc.store.journal import payloads_at
from hybrid_calc.store.record import Record

H5_SUFFIXES = frozenset({".h5", ".hdf5"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Frames of one file.

    Attributes
    ----------
    path
        Of the file.
    stamp
        Which file it was when it was looked at: see `stamp_of`.
    columns
        What frames are selected on.
    places
        Where each frame is: its row in an HDF5 file, its first byte in a
        journal; increasing.
    """

    path: Path
    stamp: tuple[int, ...]
    columns: Columns
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def identities(self) -> NDArray[np.bytes_]:
        """Content hash of every frame."""
        return self.columns.hashes["identity"]

    @property
    def is_journal(self) -> bool:
        """Whether the file is a journal."""
        return self.path.suffix not in H5_SUFFIXES

    def take(self, indices: NDArray[np.int64]) -> Part:
        """Return some of the frames."""
        return replace(self, columns=self.columns.take(indices), places=self.places[indices])

    def read(self, indices: NDArray[np.int64], damage: list[str]) -> Iterator[tuple[int, Record]]:
        """Yield some frames with their index, increasing.

        What cannot be read, or is another frame since the file was replaced,
        is left out.
        """
        if self.is_journal:
            yield from self._from_journal(indices, damage)
            return
        index_of = dict(zip(self.places[indices].tolist(), indices.tolist(), strict=True))
        for row, identity, record in read_rows(self.path, damage, self.places[indices]):
            if self.identities[index_of[row]] == identity.encode():
                yield index_of[row], record

    def _from_journal(
        self, indices: NDArray[np.int64], damage: list[str]
    ) -> Iterator[tuple[int, Record]]:
        payloads = payloads_at(self.path, self.places[indices].tolist())
        try:
            for index, payload in zip(indices.tolist(), payloads, strict=True):
                yield index, Record.from_bytes(payload)
        except FileNotFoundError:
            return  # compacted since: the frames are in a file
        except StoreDamagedError as error:
            damage.append(str(error))


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return numbers that another file of the same name does not have; none for no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
