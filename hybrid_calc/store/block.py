"""A few hundred frames side by side, as the HDF5 file holds them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.store.columns import Columns, columns_of
from hybrid_calc.store.record import ARRAYS, Record

Item = TypeVar("Item")
FRAMES_PER_BLOCK = 256
"""Read and written at once; bounds the memory of iterating."""
MAX_DIMENSIONS = 3
TYPES: dict[str, np.dtype[Any]] = dict.fromkeys(ARRAYS, np.dtype(np.float64))
TYPES |= {"numbers": np.dtype(np.int64), "pbc": np.dtype(np.uint8)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """One array of B frames, one after another.

    Attributes
    ----------
    values
        All numbers in one row.
    ends
        Where each frame's numbers end in ``values``, shape (B,).
    dimensions
        Of each frame's array, -1 where it has none, shape (B,).
    shapes
        Padded with ones, shape (B, 3).
    """

    values: NDArray[Any]
    ends: NDArray[np.int64]
    dimensions: NDArray[np.int8]
    shapes: NDArray[np.int64]

    def row(self, index: int) -> NDArray[Any] | None:
        """Return the array of one frame, None where it has none."""
        dimensions = int(self.dimensions[index])
        if dimensions < 0:
            return None
        start = int(self.ends[index - 1]) if index else 0
        return self.values[start : self.ends[index]].reshape(self.shapes[index, :dimensions])


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """B frames as the file holds them.

    Attributes
    ----------
    identities, headers, digests
        Texts, B of each.
    energies
        eV, NaN where there is no label, shape (B,).
    arrays
        By the names of `ARRAYS`.
    """

    identities: list[str]
    headers: list[str]
    digests: list[str]
    energies: NDArray[np.float64]
    arrays: Mapping[str, Ragged]

    def __len__(self) -> int:
        return len(self.identities)

    def row(self, index: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of one frame."""
        rows = {name: ragged.row(index) for name, ragged in self.arrays.items()}
        return {name: row for name, row in rows.items() if row is not None}

    def intact(self, index: int) -> bool:
        """Tell whether a frame is what was written: text, energy and arrays."""
        return self.digests[index] == frame_digest(
            self.identities[index], self.energies[index], self.headers[index], self.row(index)
        )

    def record(self, index: int) -> Record:
        """Return one frame; its arrays are copies, so that they hold no block in memory."""
        arrays = {name: array.copy() for name, array in self.row(index).items()}
        return Record.from_parts(json.loads(self.headers[index]), arrays)


def block_of(records: Sequence[Record], identities: list[str]) -> Block:
    """Return records side by side, given their content hashes."""
    headers = [json.dumps(record.header(), sort_keys=True) for record in records]
    energies = [np.nan if r.label is None else r.label.energy for r in records]
    parts = [record.arrays() for record in records]
    rows = zip(identities, energies, headers, parts, strict=True)
    return Block(
        identities=identities,
        headers=headers,
        digests=[frame_digest(*row) for row in rows],
        energies=np.array(energies, dtype=np.float64),
        arrays={name: _ragged(name, [part.get(name) for part in parts]) for name in ARRAYS},
    )


def blocks_of(records: Iterable[Record]) -> Iterator[tuple[Block, Columns]]:
    """Yield records in blocks, with their columns."""
    for batch in batch_by(records, FRAMES_PER_BLOCK):
        columns = columns_of(batch)
        yield block_of(batch, columns.identities()), columns


def batch_by(records: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of so many records; the last may be shorter."""
    batch: list[Item] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def frame_digest(
    identity: str, energy: float, header: str, arrays: Mapping[str, NDArray[Any]]
) -> str:
    """Return the hash of everything the file says about one frame.

    Of the stored text and bytes, so that no later library writes it otherwise.
    """
    digest = hashlib.sha256(f"{identity}|{header}|".encode())
    digest.update(np.float64(energy).tobytes())
    for name in ARRAYS:
        if name in arrays:
            array = arrays[name]
            digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def _ragged(name: str, parts: list[NDArray[Any] | None]) -> Ragged:
    sizes = [0 if part is None else part.size for part in parts]
    shapes = np.ones((len(parts), MAX_DIMENSIONS), dtype=np.int64)
    for row, part in zip(shapes, parts, strict=True):
        if part is not None:
            row[: part.ndim] = part.shape
    values: list[NDArray[Any]] = [np.zeros(0, dtype=TYPES[name])]
    values += [part.ravel() for part in parts if part is not None]
    return Ragged(
        values=np.concatenate(values),
        ends=np.cumsum(sizes, dtype=np.int64),
        dimensions=np.array([-1 if p is None else p.ndim for p in parts], dtype=np.int8),
        shapes=shapes,
    )
