"""The HDF5 file: columns with units, ragged arrays with offsets, only ever replaced whole.

Layout, schema 2::

    /            format, schema
    /frames/     one row per frame: identity, energy, header (JSON), digest (of the whole frame)
    /arrays/X/   values of array X of all frames one after another, offsets (F + 1),
                 shapes (F, 3) padded with ones; attribute unit
    /columns/    what frames are selected on, one row per frame: see `columns`; words are places
                 in a table (JSON); attribute digest covers all of it.  Derived from the frames
                 and rebuilt from them where it is damaged.

Schema 1 is the same without ``columns``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import StoreDamagedError, StoreError
from hybrid_calc.store.block import Block, blocks_of
from hybrid_calc.store.columns import HASHES, NUMBERS, WORDS, Columns, columns_of
from hybrid_calc.store.image import write_image
from hybrid_calc.store.journal import sync_folder
from hybrid_calc.store.record import Record
from hybrid_calc.store.rows import UNREADABLE, Reader, spans, within

FORMAT = "hybrid_calc store"
SCHEMA = 2
READABLE_SCHEMAS = frozenset({1, SCHEMA})
H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def write_hdf5(path: Path, records: Iterable[Record]) -> None:
    """Replace the file by one with these records, durably and all at once.

    Raises
    ------
    StoreError
        The disk is full or cannot be written; the file before is untouched.
    """
    write_blocks(path, blocks_of(records))


def write_blocks(path: Path, blocks: Iterable[tuple[Block, Columns]]) -> None:
    """Replace the file by one with these blocks; no more than one is held at a time.

    Raises
    ------
    StoreError
        The disk is full or cannot be written; the file before is untouched.
    """
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        with temporary.open("w+b", buffering=0) as file:
            write_image(file, blocks, {"format": FORMAT, "schema": SCHEMA})
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, StoreError) or not isinstance(error, OSError):
            raise
        raise StoreError(
            f"{path} could not be rewritten: {error}. The frames are safe in its journal; "
            "free space and run: hybrid-calc store compact."
        ) from error


def read_hdf5(path: Path, damage: list[str]) -> Iterator[Record]:
    """Yield the readable records of a file; one block of them is held at a time.

    Parameters
    ----------
    path
        Of the file.
    damage
        Gets one sentence per frame, or for the file, that cannot be read; the
        other frames are yielded.
    """
    for _, record in read_rows(path, damage):
        yield record


def read_rows(
    path: Path, damage: list[str], rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, Record]]:
    """Yield row and record of some rows, in increasing order; all of them by default."""
    for start, block, good in read_blocks(path, damage, rows):
        for index in good:
            try:
                record = block.record(index)
            except UNREADABLE as error:
                damage.append(f"{path.name}: frame {start + index} cannot be read: {error}")
                continue
            yield start + index, record


def read_blocks(
    path: Path, damage: list[str], rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, Block, list[int]]]:
    """Yield blocks: their first row, the block, and which of its frames are wanted and intact."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            reader = Reader(file, path.name, damage)
            for start, stop in spans(reader.count, rows):
                wanted = range(start, stop) if rows is None else within(rows, start, stop)
                yield from reader.blocks(start, stop, wanted)
    except UNREADABLE as error:
        damage.append(f"{path.name} cannot be read: {error}")


def read_columns(path: Path, damage: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    """Return what frames are selected on, and the row of each in the file.

    No frame is read, unless the columns are damaged or of an older schema.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs["schema"] == 1:
                return upgrade_1_to_2(path, damage)
            columns = _columns(file["columns"])
            whole = file["columns"].attrs["digest"] == columns.digest()
            if whole and len(columns) == len(file["frames/identity"]):
                return columns, np.arange(len(columns))
    except UNREADABLE as error:
        if not _opens(path):
            damage.append(f"{path.name} cannot be read: {error}")
            return columns_of([]), np.zeros(0, dtype=np.int64)
    damage.append(f"{path.name}: the columns are damaged; they were rebuilt from the frames")
    return upgrade_1_to_2(path, damage)


def upgrade_1_to_2(path: Path, damage: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    """Return the columns that schema 2 adds, from the frames themselves.

    The next compaction writes them into the file.
    """
    rows: list[int] = []

    def note() -> Iterator[Record]:
        for row, record in read_rows(path, damage):
            rows.append(row)
            yield record

    columns = columns_of(note())
    return columns, np.array(rows, dtype=np.int64)


def schema_of(path: Path) -> int:
    """Return the schema of a file, 0 where it cannot be read."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return int(file.attrs["schema"])
    except UNREADABLE:
        return 0


def check_format(path: Path) -> None:
    """Refuse a file that is not a store at all, or of a schema not known.

    A damaged store passes: what is left of it is worth reading.

    Raises
    ------
    StoreDamagedError
        The file is something else.
    """
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            signature = file.read(8)
        if signature in (b"", H5_SIGNATURE):
            return
        raise StoreDamagedError(f"{path} is not an HDF5 file; give the store another path.")
    try:
        with h5py.File(path, "r", locking=False) as file:
            name, schema = file.attrs.get("format"), file.attrs.get("schema")
    except UNREADABLE:
        return
    if name != FORMAT:
        raise StoreDamagedError(f"{path} is HDF5 but not a {FORMAT}; give another path.")
    if schema not in READABLE_SCHEMAS:
        raise StoreDamagedError(
            f"{path} has schema {schema}; this version reads schema 1 to {SCHEMA}. "
            "Install the version of hybrid_calc that wrote it."
        )


def _opens(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "frames" in file
    except UNREADABLE:
        return False


def _columns(group: h5py.Group) -> Columns:
    tables = json.loads(group["tables"][:].tobytes())
    return Columns(
        hashes={name: group[name][:] for name in HASHES},
        numbers={name: group[name][:] for name in NUMBERS},
        places={name: group[name][:] for name in WORDS},
        tables={name: tuple(tables[name]) for name in WORDS},
    )
