"""The bytes of the HDF5 file, written block after block."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from hybrid_calc.store.block import MAX_DIMENSIONS, TYPES, Block
from hybrid_calc.store.columns import NUMBERS, Columns, concatenate, tables_text
from hybrid_calc.store.record import ARRAYS
from hybrid_calc.store.seal import write_seal

VALUES_PER_CHUNK = 4096
"""One damaged chunk costs the frames in it and no other; 32 kB of float64."""
BYTES_PER_CHUNK = 32_768
"""Of headers, some 30 frames."""
ROWS_PER_CHUNK = 256
COLUMN_ROWS_PER_CHUNK = 4096
"""Of what frames are selected on: damage there costs no frame."""
FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


class Sink(io.RawIOBase):
    """A file that keeps its first error to itself.

    HDF5 takes the process down with it when a write fails.  Here a write
    that fails is noted in ``error``, and so is every one after it; who writes
    looks there after every block.

    Parameters
    ----------
    file
        Open for reading and writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as far as there is no error; always say that all is written."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and self.error is None:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.error = error
        return size

    def readinto(self, buffer: Any) -> int:
        """Read what was written; zeros where nothing could be."""
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the byte where reading and writing goes on."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Set the size, bytes."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


def write_image(
    file: BinaryIO, blocks: Iterable[tuple[Block, Columns]], attributes: Mapping[str, Any]
) -> None:
    """Write blocks as a sealed HDF5 file; one of them is held at a time.

    Parameters
    ----------
    file
        Empty, open for reading and writing without a buffer.
    blocks
        With their columns.
    attributes
        Of the file, ``schema`` among them.

    Raises
    ------
    OSError
        The disk is full or cannot be written.
    """
    sink = Sink(file)
    try:
        with h5py.File(sink, "w") as image:
            image.attrs.update(attributes)
            frames = _fill(image, blocks, sink)
    except (RuntimeError, ValueError):
        sink.check()  # what HDF5 says of an error is less than what the system said
        raise
    sink.check()
    write_seal(file, schema=attributes["schema"], frames=frames)


def _fill(file: h5py.File, blocks: Iterable[tuple[Block, Columns]], sink: Sink) -> int:
    """Write everything; return how many frames."""
    frames = file.create_group("frames")
    # Each row is covered by its frame's digest: without filters, damage costs one frame.
    for name, dtype in {"energy": "f8", "identity": "S32", "digest": "S32"}.items():
        column = frames.create_dataset(
            name, shape=(0,), maxshape=(None,), dtype=dtype, chunks=(ROWS_PER_CHUNK,)
        )
        column.attrs["unit"] = "eV" if name == "energy" else ""
    headers = file.create_group("headers")
    _growing(headers, "values", np.uint8, chunk=(BYTES_PER_CHUNK,))
    _growing(headers, "offsets", np.int64)
    _extend(headers["offsets"], np.zeros(1, dtype=np.int64))
    arrays = file.create_group("arrays")
    for name, unit in ARRAYS.items():
        group = arrays.create_group(name)
        _growing(group, "values", TYPES[name], unit=unit, chunk=(VALUES_PER_CHUNK,))
        _growing(group, "offsets", np.int64)
        _growing(group, "dimensions", np.int8)
        _growing(group, "shapes", np.int64, chunk=(ROWS_PER_CHUNK, MAX_DIMENSIONS))
        _extend(group["offsets"], np.zeros(1, dtype=np.int64))
    parts = []
    for block, columns in blocks:
        _add(file, block)
        parts.append(columns)
        sink.check()
    columns = concatenate(parts)
    _write_columns(file.create_group("columns"), columns)
    return len(columns)


def _add(file: h5py.File, block: Block) -> None:
    frames = file["frames"]
    _extend(frames["energy"], block.energies)
    _extend(frames["identity"], np.array(block.identities, dtype="S32"))
    _extend(frames["digest"], np.array(block.digests, dtype="S32"))
    texts = [header.encode() for header in block.headers]
    headers, end = file["headers"], len(file["headers/values"])
    _extend(headers["values"], np.frombuffer(b"".join(texts), dtype=np.uint8))
    _extend(headers["offsets"], end + np.cumsum([len(text) for text in texts], dtype=np.int64))
    for name, ragged in block.arrays.items():
        group = file["arrays"][name]
        first = len(group["values"])
        _extend(group["values"], ragged.values)
        _extend(group["offsets"], first + ragged.ends)
        _extend(group["dimensions"], ragged.dimensions)
        _extend(group["shapes"], ragged.shapes)


def _write_columns(group: h5py.Group, columns: Columns) -> None:
    units = {name: unit for name, (_, unit) in NUMBERS.items()}
    sources: dict[str, NDArray[Any]] = {**columns.hashes, **columns.numbers, **columns.places}
    for name, source in sources.items():
        unit, chunk = units.get(name, ""), (COLUMN_ROWS_PER_CHUNK,)
        _growing(group, name, source.dtype, unit=unit, chunk=chunk)
        _extend(group[name], source)
    tables = np.frombuffer(tables_text(columns.tables).encode(), dtype=np.uint8)
    _growing(group, "tables", np.uint8, chunk=(VALUES_PER_CHUNK,))
    _extend(group["tables"], tables)
    group.attrs["digest"] = columns.digest()


def _growing(
    group: h5py.Group, name: str, dtype: Any, *, unit: str = "", chunk: tuple[int, ...] = ()
) -> None:
    chunk = chunk or (ROWS_PER_CHUNK,)
    dataset = group.create_dataset(
        name,
        shape=(0, *chunk[1:]),
        maxshape=(None, *chunk[1:]),
        dtype=dtype,
        chunks=chunk,
        **FILTERS,
    )
    dataset.attrs["unit"] = unit


def _extend(dataset: h5py.Dataset, values: Any) -> None:
    if len(values):
        size = len(dataset)
        dataset.resize(size + len(values), axis=0)
        dataset[size:] = values
