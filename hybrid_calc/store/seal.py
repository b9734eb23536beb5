"""The seal at the end of a store's file: what HDF5 will interpret is checked before it does.

libhdf5 can loop for ever on a flipped bit of its own structure.  So whoever
writes a file notes, behind the last byte of HDF5, a checksum of every extent
that is not a chunk of numbers (chunks have checksums of their own, and every
frame its digest).  A reader compares them, some kilobytes to megabytes,
before HDF5 opens the file.  The checksum of the whole image is for `verify`.

Layout: one row (start, size, CRC32) per extent, then `FOOTER`.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py

from hybrid_calc.errors import StoreDamagedError

MAGIC = b"HCSEAL\x01\n"
FOOTER = struct.Struct("<QQQQII8s")
"""Schema, frames, bytes of the image, extents, CRC32 of the image, of the seal before it, MAGIC."""
EXTENT = struct.Struct("<QQI")
PIECE = 1 << 20
"""Bytes read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a file was when it was written.

    Attributes
    ----------
    schema
        Of the file.
    frames
        How many it holds.
    size
        Bytes of HDF5, without the seal.
    checksum
        CRC32 of those.
    extents
        Start, size and CRC32 of everything that HDF5 interprets.
    """

    schema: int
    frames: int
    size: int
    checksum: int
    extents: tuple[tuple[int, int, int], ...]

    def to_bytes(self) -> bytes:
        """Return what is written behind the image."""
        rows = b"".join(EXTENT.pack(*extent) for extent in self.extents)
        numbers = (self.schema, self.frames, self.size, len(self.extents), self.checksum)
        check = zlib.crc32(FOOTER.pack(*numbers, 0, MAGIC), zlib.crc32(rows))
        return rows + FOOTER.pack(*numbers, check, MAGIC)


def write_seal(file: BinaryIO, *, schema: int, frames: int) -> None:
    """Seal a complete image; the file is open for reading and writing, without a buffer."""
    size = file.seek(0, io.SEEK_END)
    extents = tuple(
        (start, stop - start, _checksum(file.fileno(), start, stop))
        for start, stop in _structure(file, size)
    )
    checksum = _checksum(file.fileno(), 0, size)
    seal = Seal(schema=schema, frames=frames, size=size, checksum=checksum, extents=extents)
    file.seek(size)
    view = memoryview(seal.to_bytes())
    while view:
        view = view[file.write(view) :]


def read_seal(path: Path) -> Seal | None:
    """Return the seal of a file; None where there is none, or none that is intact.

    Files of schema 1 have none, nor has one that another program wrote to.
    """
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        if end < FOOTER.size:
            return None
        file.seek(end - FOOTER.size)
        *numbers, check, magic = FOOTER.unpack(file.read(FOOTER.size))
        schema, frames, size, count, checksum = numbers
        if magic != MAGIC or size + count * EXTENT.size + FOOTER.size != end:
            return None
        file.seek(size)
        rows = file.read(count * EXTENT.size)
    if zlib.crc32(FOOTER.pack(*numbers, 0, MAGIC), zlib.crc32(rows)) != check:
        return None
    extents = tuple((start, length, crc) for start, length, crc in EXTENT.iter_unpack(rows))
    return Seal(schema=schema, frames=frames, size=size, checksum=checksum, extents=extents)


def check_structure(path: Path, seal: Seal) -> None:
    """Refuse a file whose structure is not what was written.

    Raises
    ------
    StoreDamagedError
        Nothing was given to HDF5.
    """
    with path.open("rb", buffering=0) as file:
        for start, size, checksum in seal.extents:
            if _checksum(file.fileno(), start, start + size) != checksum:
                raise StoreDamagedError(
                    f"its structure is damaged at byte {start} to {start + size}"
                )


def image_is_whole(path: Path, seal: Seal) -> bool:
    """Tell whether every byte is what was written."""
    with path.open("rb", buffering=0) as file:
        return _checksum(file.fileno(), 0, seal.size) == seal.checksum


def _structure(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of everything between the chunks."""
    chunks: list[tuple[int, int]] = []

    def note(_: str, thing: h5py.HLObject) -> None:
        if isinstance(thing, h5py.Dataset) and thing.chunks:
            thing.id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.size)))

    with h5py.File(file, "r") as image:
        image.visititems(note)
    at = 0
    for start, length in sorted(chunks):
        if start > at:
            yield at, start
        at = start + length
    if size > at:
        yield at, size


def _checksum(descriptor: int, start: int, stop: int) -> int:
    checksum = 0
    while start < stop:
        piece = os.pread(descriptor, min(PIECE, stop - start), start)
        if not piece:
            return -1  # shorter than it was
        checksum = zlib.crc32(piece, checksum)
        start += len(piece)
    return checksum
