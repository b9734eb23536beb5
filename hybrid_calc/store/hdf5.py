"""The HDF5 file: columns with units, ragged arrays with offsets, only ever replaced whole.

Layout, schema 2::

    /            format, schema; in a store's own file shards (K, 2): number and frames of each
    /frames/     one row per frame: identity, energy, digest (of the whole frame)
    /headers/    values (UTF-8 JSON of all frames one after another), offsets (F + 1)
    /arrays/X/   values of array X of all frames one after another, offsets (F + 1),
                 shapes (F, 3) padded with ones; attribute unit
    /columns/    what frames are selected on, one row per frame: see `columns`; words are places
                 in a table (JSON); attribute digest covers all of it.  Derived from the frames
                 and rebuilt from them where it is damaged.

Behind the last byte of HDF5 stands a seal, see `seal`.  Schema 1 has neither
columns nor seal, and a text ``header`` in ``frames`` in place of ``headers``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from hybrid_calc.store.seal import check_structure, read_seal

FORMAT = "hybrid_calc store"
SCHEMA = 2
READABLE_SCHEMAS = frozenset({1, SCHEMA})
H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What a file holds, without the frames.

    Attributes
    ----------
    columns
        What frames are selected on.
    rows
        The row of each in the file, increasing.
    frames
        How many the file holds; more than rows where frames had to be read
        and could not.
    schema
        Of the file.
    shards
        Number and frames of every shard that belongs to it.
    """

    columns: Columns
    rows: NDArray[np.int64]
    frames: int
    schema: int
    shards: tuple[tuple[int, int], ...] = ()


def write_hdf5(path: Path, records: Iterable[Record]) -> None:
    """Replace the file by one with these records, durably and all at once.

    Raises
    ------
    StoreError
        The disk is full or cannot be written; the file before is untouched.
    """
    write_blocks(path, blocks_of(records))


def write_blocks(
    path: Path,
    blocks: Iterable[tuple[Block, Columns]],
    shards: Sequence[tuple[int, int]] = (),
) -> None:
    """Replace the file by one with these blocks; no more than one is held at a time.

    Parameters
    ----------
    path
        Of the file.
    blocks
        With their columns.
    shards
        Number and frames of every shard that belongs to it.

    Raises
    ------
    StoreError
        The disk is full or cannot be written; the file before is untouched.
    """
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    attributes = {
        "format": FORMAT,
        "schema": SCHEMA,
        "shards": np.array(shards, dtype=np.int64).reshape(-1, 2),
    }
    try:
        with temporary.open("w+b", buffering=0) as file:
            write_image(file, blocks, attributes)
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


@contextlib.contextmanager
def open_image(path: Path, damage: list[str]) -> Iterator[h5py.File]:
    """Open a file for reading once its structure is known to be what was written.

    Raises
    ------
    StoreDamagedError
        It is not; HDF5, which may never come back from it, was not asked.
    """
    seal = read_seal(path)
    if seal is not None:
        check_structure(path, seal)
    with h5py.File(path, "r", locking=False) as file:
        if seal is None and file.attrs["schema"] != 1:
            damage.append(
                f"{path.name}: its seal is damaged or missing, as after another program wrote to "
                "it; its frames are checked one by one"
            )
        yield file


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
    for _, _, record in read_rows(path, damage):
        yield record


def read_rows(
    path: Path, damage: list[str], rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, str, Record]]:
    """Yield row, identity and record of some rows, increasing; all of them by default."""
    for start, block, good in read_blocks(path, damage, rows):
        for index in good:
            try:
                record = block.record(index)
            except UNREADABLE as error:
                damage.append(f"{path.name}: frame {start + index} cannot be read: {error}")
                continue
            yield start + index, block.identities[index], record


def read_blocks(
    path: Path, damage: list[str], rows: NDArray[np.int64] | None = None
) -> Iterator[tuple[int, Block, list[int]]]:
    """Yield blocks: their first row, the block, and which of its frames are wanted and intact."""
    try:
        with open_image(path, damage) as file:
            reader = Reader(file, path.name, damage)
            for start, stop in spans(reader.count, rows):
                wanted = range(start, stop) if rows is None else within(rows, start, stop)
                yield from reader.blocks(start, stop, wanted)
    except UNREADABLE as error:
        damage.append(f"{path.name} cannot be read: {error}")


def read_index(path: Path, damage: list[str]) -> Index | None:
    """Return what frames are selected on, and the row of each; None where the file is unreadable.

    No frame is read, unless the columns are damaged or of an older schema.
    """
    try:
        with open_image(path, damage) as file:
            schema = int(file.attrs["schema"])
            shards = tuple((int(n), int(frames)) for n, frames in file.attrs.get("shards", ()))
            count = len(file["frames/identity"])
            columns = _whole_columns(file, count) if schema > 1 else None
    except UNREADABLE as error:
        damage.append(f"{path.name} cannot be read: {error}")
        return None
    if columns is not None:
        rows = np.arange(count)
        return Index(columns=columns, rows=rows, frames=count, schema=schema, shards=shards)
    if schema > 1:
        damage.append(f"{path.name}: the columns are damaged; they were rebuilt from the frames")
    columns, rows = upgrade_1_to_2(path, damage)
    return Index(columns=columns, rows=rows, frames=count, schema=schema, shards=shards)


def upgrade_1_to_2(path: Path, damage: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    """Return the columns that schema 2 adds, from the frames themselves.

    The next compaction writes them into the file.
    """
    rows: list[int] = []

    def note() -> Iterator[Record]:
        for row, _, record in read_rows(path, damage):
            rows.append(row)
            yield record

    columns = columns_of(note())
    return columns, np.array(rows, dtype=np.int64)


def check_format(path: Path, *, ours: bool = False) -> None:
    """Refuse a file that is not a store at all, or of a schema not known.

    A damaged store passes: what is left of it is worth reading.

    Parameters
    ----------
    path
        Of the file.
    ours
        There are journals of it: whatever it looks like, it was a store.

    Raises
    ------
    StoreDamagedError
        The file is something else.
    """
    seal = read_seal(path)
    if seal is not None:
        _check_schema(path, seal.schema)
        return
    if ours:
        return
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
    _check_schema(path, schema)


def _check_schema(path: Path, schema: object) -> None:
    if schema not in READABLE_SCHEMAS:
        raise StoreDamagedError(
            f"{path} has schema {schema}; this version reads schema 1 to {SCHEMA}. "
            "Install the version of hybrid_calc that wrote it."
        )


def _whole_columns(file: h5py.File, count: int) -> Columns | None:
    """Return the columns, None where they are not what was written."""
    try:
        columns = _columns(file["columns"])
        whole = file["columns"].attrs["digest"] == columns.digest() and len(columns) == count
    except UNREADABLE:
        return None
    return columns if whole else None


def _columns(group: h5py.Group) -> Columns:
    tables = json.loads(group["tables"][:].tobytes())
    return Columns(
        hashes={name: group[name][:] for name in HASHES},
        numbers={name: group[name][:] for name in NUMBERS},
        places={name: group[name][:] for name in WORDS},
        tables={name: tuple(tables[name]) for name in WORDS},
    )
