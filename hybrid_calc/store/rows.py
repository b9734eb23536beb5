"""Reading frames out of an open HDF5 file: a block at a time, row by row where it is damaged."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import HybridCalcError
from hybrid_calc.store.block import FRAMES_PER_BLOCK, Block, Ragged
from hybrid_calc.store.record import ARRAYS

FRAME_COLUMNS = ("identity", "energy", "digest")
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    HybridCalcError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What h5py, numpy and json raise on damaged bytes."""


def spans(count: int, rows: NDArray[np.int64] | None) -> Iterator[tuple[int, int]]:
    """Yield first and last row (exclusive) of what is read at once."""
    if rows is None:
        for start in range(0, count, FRAMES_PER_BLOCK):
            yield start, min(start + FRAMES_PER_BLOCK, count)
        return
    rows = rows[rows < count]
    at = 0
    while at < len(rows):  # as long as most of a span is wanted, it is read whole
        end = at + 1
        while end < len(rows) and rows[end] - rows[end - 1] <= 2:
            if rows[end] - rows[at] >= FRAMES_PER_BLOCK:
                break
            end += 1
        yield int(rows[at]), int(rows[end - 1]) + 1
        at = end


def within(rows: NDArray[np.int64], start: int, stop: int) -> list[int]:
    """Return the rows of a span."""
    first, last = np.searchsorted(rows, [start, stop])
    return [int(row) for row in rows[first:last]]


class Reader:
    """The frames of an open file.

    Parameters
    ----------
    file
        Open for reading.
    name
        Of the file, for sentences.
    damage
        Gets one sentence per place that cannot be read.
    """

    def __init__(self, file: h5py.File, name: str, damage: list[str]) -> None:
        self._frames = {column: file[f"frames/{column}"] for column in FRAME_COLUMNS}
        groups = {array: file[f"arrays/{array}"] for array in ARRAYS}
        parts = ("values", "offsets", "dimensions", "shapes")
        self._arrays = {
            array: {part: group[part] for part in parts} for array, group in groups.items()
        }
        self._headers = _Headers(file)
        self._name, self._damage = name, damage
        counts = [len(column) for column in self._frames.values()]
        counts.append(len(self._headers))
        counts += [len(group["offsets"]) - 1 for group in self._arrays.values()]
        if min(counts) != max(counts):
            damage.append(
                f"{name}: between {min(counts)} and {max(counts)} frames; the least are read"
            )
        self.count = min(counts)

    def blocks(
        self, start: int, stop: int, wanted: Iterable[int]
    ) -> Iterator[tuple[int, Block, list[int]]]:
        """Yield the rows of a span; where one is damaged, row by row."""
        wanted = list(wanted)
        try:
            block = self._block(start, stop)
            if all(block.intact(row - start) for row in wanted):
                yield start, block, [row - start for row in wanted]
                return
        except UNREADABLE:
            pass
        for row in wanted:
            try:
                block = self._block(row, row + 1)
                intact = block.intact(0)
            except UNREADABLE as error:
                self._damage.append(f"{self._name}: frame {row} cannot be read: {error}")
                continue
            if intact:
                yield row, block, [0]
            else:
                self._damage.append(
                    f"{self._name}: frame {row} is not what was written (content hash differs)"
                )

    def _block(self, start: int, stop: int) -> Block:
        identity, digest = (
            [text.decode() for text in self._frames[column][start:stop].tolist()]
            for column in ("identity", "digest")
        )
        return Block(
            identities=identity,
            headers=self._headers.rows(start, stop),
            digests=digest,
            energies=self._frames["energy"][start:stop],
            arrays={name: _ragged(parts, start, stop) for name, parts in self._arrays.items()},
        )


class _Headers:
    """The text of every frame: bytes with offsets, a column of texts in schema 1."""

    def __init__(self, file: h5py.File) -> None:
        self._ragged = "headers" in file
        self._values: Any = file["headers/values" if self._ragged else "frames/header"]
        self._offsets: Any = file["headers/offsets"] if self._ragged else ()

    def __len__(self) -> int:
        return len(self._offsets) - 1 if self._ragged else len(self._values)

    def rows(self, start: int, stop: int) -> list[str]:
        """Return the texts of a span."""
        if not self._ragged:
            return [text.decode() for text in self._values[start:stop]]
        ends = self._offsets[start : stop + 1].tolist()
        first = ends[0]
        data = self._values[first : ends[-1]].tobytes()
        pairs = itertools.pairwise(ends)
        return [data[low - first : high - first].decode() for low, high in pairs]


def _ragged(parts: dict[str, Any], start: int, stop: int) -> Ragged:
    offsets = parts["offsets"][start : stop + 1]
    return Ragged(
        values=parts["values"][offsets[0] : offsets[-1]],
        ends=offsets[1:] - offsets[0],
        dimensions=parts["dimensions"][start:stop],
        shapes=parts["shapes"][start:stop],
    )
