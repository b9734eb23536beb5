"""The HDF5 file: columns with units, ragged arrays with offsets, only ever replaced whole.

Layout, schema 1::

    /            format, schema
    /frames/     one row per frame: identity, energy, header (JSON), digest (of the whole frame)
    /arrays/X/   values of array X of all frames one after another, offsets (F + 1),
                 shapes (F, 3) padded with ones; attribute unit
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hybrid_calc.errors import HybridCalcError, StoreDamagedError, StoreError
from hybrid_calc.store.journal import sync_folder
from hybrid_calc.store.record import ARRAYS, Record

FORMAT = "hybrid_calc store"
SCHEMA = 1
MAX_DIMENSIONS = 3
FRAME_COLUMNS = ("identity", "energy", "header", "digest")
H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
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


def write_hdf5(path: Path, records: Sequence[Record]) -> None:
    """Replace the file by one with these records, durably and all at once.

    Raises
    ------
    StoreError
        The disk is full or cannot be written; the file before is untouched.
    """
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_image(str(temporary), records))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path} could not be rewritten: {error}. The frames are safe in its journal; "
            "free space and run: hybrid-calc store compact."
        ) from error


def read_hdf5(path: Path, damage: list[str]) -> Iterator[Record]:
    """Yield the readable records of a file, one at a time.

    Parameters
    ----------
    path
        Of the file.
    damage
        Gets one sentence per frame, or for the file, that cannot be read; the
        other frames are yielded.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield from _records(file, path.name, damage)
    except UNREADABLE as error:
        damage.append(f"{path.name} cannot be read: {error}")


def check_format(path: Path) -> None:
    """Refuse a file that is not a store at all, or of a schema not known.

    A damaged store passes: what is left of it is worth reading.

    Raises
    ------
    StoreDamagedError
        The file is something else.
    """
    if not h5py.is_hdf5(path):
        if path.read_bytes()[:8] in (b"", H5_SIGNATURE):
            return
        raise StoreDamagedError(f"{path} is not an HDF5 file; give the store another path.")
    try:
        with h5py.File(path, "r", locking=False) as file:
            name, schema = file.attrs.get("format"), file.attrs.get("schema")
    except UNREADABLE:
        return
    if name != FORMAT:
        raise StoreDamagedError(f"{path} is HDF5 but not a {FORMAT}; give another path.")
    if schema != SCHEMA:
        raise StoreDamagedError(
            f"{path} has schema {schema}; this version reads schema {SCHEMA}. "
            "Install the version of hybrid_calc that wrote it."
        )


def _image(name: str, records: Sequence[Record]) -> bytes:
    """Return the bytes of a file with these records.

    Made in memory: HDF5 takes the process down with it when the disk is full.
    Names tell images that are open at the same time apart.
    """
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        _fill(file, records)
        file.flush()
        return bytes(file.id.get_file_image())


def _fill(file: h5py.File, records: Sequence[Record]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["schema"] = SCHEMA
    frames = file.create_group("frames")
    text = h5py.string_dtype()
    energies = [np.nan if r.label is None else r.label.energy for r in records]
    _column(frames, "energy", np.array(energies), unit="eV")
    _column(frames, "identity", np.array([r.identity for r in records], dtype=object), text)
    headers = [json.dumps(record.header(), sort_keys=True) for record in records]
    _column(frames, "header", np.array(headers, dtype=object), text)
    parts = [record.arrays() for record in records]
    digests = [
        _digest(record.identity, energy, header, arrays)
        for record, energy, header, arrays in zip(records, energies, headers, parts, strict=True)
    ]
    _column(frames, "digest", np.array(digests, dtype=object), text)
    group = file.create_group("arrays")
    for name, unit in ARRAYS.items():
        _ragged(group.create_group(name), [part.get(name) for part in parts], unit)


def _column(group: h5py.Group, name: str, values: Any, dtype: Any = None, unit: str = "") -> None:
    # Filters need chunks, and chunks need at least one element.
    options: dict[str, Any] = {}
    if len(values):
        options = {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}
    if dtype is not None:  # HDF5 checksums no variable-length strings
        options = {}
    dataset = group.create_dataset(name, data=values, dtype=dtype, **options)
    dataset.attrs["unit"] = unit


def _ragged(group: h5py.Group, parts: list[Any], unit: str) -> None:
    sizes = [0 if part is None else part.size for part in parts]
    shapes = np.ones((len(parts), MAX_DIMENSIONS), dtype=np.int64)
    for row, part in zip(shapes, parts, strict=True):
        if part is not None:
            row[: part.ndim] = part.shape
    there = [part.ravel() for part in parts if part is not None]
    values = np.concatenate(there) if there else np.zeros(0)
    _column(group, "values", values, unit=unit)
    _column(group, "offsets", np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))
    dimensions = np.array([-1 if part is None else part.ndim for part in parts], dtype=np.int8)
    _column(group, "dimensions", dimensions)
    _column(group, "shapes", shapes)


def _records(file: h5py.File, name: str, damage: list[str]) -> Iterator[Record]:
    frames = {column: file[f"frames/{column}"] for column in FRAME_COLUMNS}
    arrays = {array: file[f"arrays/{array}"] for array in ARRAYS}
    counts = [len(column) for column in frames.values()]
    counts += [len(group["offsets"]) - 1 for group in arrays.values()]
    if min(counts) != max(counts):
        damage.append(f"{name}: between {min(counts)} and {max(counts)} frames; the least are read")
    ragged = {array: _Ragged(group, min(counts)) for array, group in arrays.items()}
    for index in range(min(counts)):
        try:
            row = {array: part for array, r in ragged.items() if (part := r.row(index)) is not None}
            identity, header, digest = (
                frames[column][index].decode() for column in ("identity", "header", "digest")
            )
            intact = digest == _digest(identity, frames["energy"][index], header, row)
            record = Record.from_parts(json.loads(header), row) if intact else None
        except UNREADABLE as error:
            damage.append(f"{name}: frame {index} cannot be read: {error}")
            continue
        if record is not None:
            yield record
        else:
            damage.append(f"{name}: frame {index} is not what was written (content hash differs)")


def _digest(identity: str, energy: float, header: str, arrays: Mapping[str, NDArray[Any]]) -> str:
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


class _Ragged:
    """One array of every frame."""

    def __init__(self, group: h5py.Group, count: int) -> None:
        self._values = group["values"]
        self._offsets = group["offsets"][: count + 1]
        self._dimensions = group["dimensions"][:count]
        self._shapes = group["shapes"][:count]

    def row(self, index: int) -> Any:
        """Return the array of one frame, None where it has none."""
        dimensions = int(self._dimensions[index])
        if dimensions < 0:
            return None
        values = self._values[self._offsets[index] : self._offsets[index + 1]]
        return values.reshape(self._shapes[index, :dimensions])
