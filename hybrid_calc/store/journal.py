"""The commit point: an append-only file in which a record is complete or not there.

Each record is MAGIC, length (8 bytes, little endian), CRC32 of length and
payload (4 bytes), payload.  `Journal.append` returns after fsync; when it has
returned the record survives whatever happens to the process or the machine.
One journal belongs to one process, which holds a lock on it while it lives.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from hybrid_calc.errors import StoreDamagedError, StoreError

MAGIC = b"HCJ\x01"
HEADER = struct.Struct("<4sQI")
SUFFIX = ".journal"
PIECE = 1 << 20
"""Bytes read at once where a record is looked for."""


@dataclass(slots=True, kw_only=True)
class Notes:
    """What was noticed while journals were read.

    Attributes
    ----------
    damage
        One sentence per damaged record.
    torn_tails
        One sentence per journal whose last record begins well and stops too
        early, as a killed writer leaves it before the record is acknowledged.
    """

    damage: list[str] = field(default_factory=list)
    torn_tails: list[str] = field(default_factory=list)


class Journal:
    """Append to a journal of one's own.

    Parameters
    ----------
    folder
        Where journals live; created, with its parents' entry made durable.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._size = 0
        self.path: Path | None = None
        self._lock: FileLock | None = None

    def append(self, payload: bytes) -> tuple[Path, int]:
        """Write one record durably; return the journal and the record's first byte in it.

        Raises
        ------
        StoreError
            The disk is full or cannot be written; what was there before is
            intact and the record is not there.
        """
        try:
            path = self._open() if self.path is None else self.path
            start = self._size
            self._write(_frame(payload))
        except OSError as error:
            place, why = self.path or self._folder, error.strerror or error
            raise StoreError(
                f"the frame could not be written to {place}: {why}. "
                "Free space or fix the path and run again with --resume; "
                "frames acknowledged before are safe."
            ) from error
        return path, start

    def close(self) -> None:
        """Release the journal; the file stays until its records are in the HDF5 file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self.path = None

    def _open(self) -> Path:
        make_folder(self._folder)
        path = self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        try:
            self._lock = lock_of(path)
            self._lock.acquire(timeout=0)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            sync_folder(self._folder)
        except BaseException:
            self.close()
            raise
        self.path, self._size = path, 0
        return path

    def _write(self, frame: bytes) -> None:
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._descriptor, view) :]
            # Bytes and length, not the times: a third of the cost of fsync.
            getattr(os, "fdatasync", os.fsync)(self._descriptor)
            self._size += len(frame)
        except BaseException:  # also Ctrl-C: the next record must follow the last whole one
            self._abandon_tail()
            raise

    def _abandon_tail(self) -> None:
        """Cut a half-written record off; where even that fails, leave this file for good."""
        try:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError:
            self.close()


def read_journal(path: Path, notes: Notes) -> Iterator[tuple[int, bytes]]:
    """Yield first byte and payload of every complete record; one is held at a time.

    A torn tail and damaged records are noted and skipped; the records around
    them are yielded.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            payload = _record_at(file, at, size)
            if payload is not None:
                yield at, payload
                at += HEADER.size + len(payload)
                continue
            following = _next_record(file, at + 1, size)
            if following is None and _stops_early(file, at, size):
                notes.torn_tails.append(
                    f"{path.name}: torn tail, {size - at} bytes after byte {at}"
                )
                return
            following = size if following is None else following
            notes.damage.append(f"{path.name}: damaged record from byte {at} to {following}")
            at = following


def payloads_at(path: Path, places: Iterable[int]) -> Iterator[bytes]:
    """Yield the records that begin at some bytes of a journal.

    Raises
    ------
    StoreDamagedError
        There is no whole record at a place.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for at in places:
            payload = _record_at(file, at, size)
            if payload is None:
                raise StoreDamagedError(f"{path.name}: damaged record at byte {at}")
            yield payload


def lock_of(journal: Path) -> FileLock:
    """Return the lock that the writer of a journal holds while it lives."""
    return FileLock(journal.with_suffix(".lock"), thread_local=False)


def take_over(journal: Path) -> FileLock | None:
    """Return the held lock of a journal whose writer is gone, or None where it lives."""
    lock = lock_of(journal)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents; their entries are durable on return.

    The entry of the folder itself is synced even where it is there: another
    process may have created it and not have come to that yet.
    """
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for entry in (folder, *missing):
        sync_folder(entry.parent)


def _frame(payload: bytes) -> bytes:
    return HEADER.pack(MAGIC, len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(8, "little")))


def _record_at(file: BinaryIO, at: int, size: int) -> bytes | None:
    if at + HEADER.size > size:
        return None
    file.seek(at)
    magic, length, checksum = HEADER.unpack(file.read(HEADER.size))
    if magic != MAGIC or at + HEADER.size + length > size:
        return None
    if length > PIECE and _checksum_of(file, length) != checksum:
        return None  # a damaged length must not fill the memory
    file.seek(at + HEADER.size)
    payload = file.read(length)
    return payload if _checksum(payload) == checksum else None


def _checksum_of(file: BinaryIO, length: int) -> int:
    checksum, left = zlib.crc32(length.to_bytes(8, "little")), length
    while left > 0 and (piece := file.read(min(PIECE, left))):
        checksum, left = zlib.crc32(piece, checksum), left - len(piece)
    return checksum


def _stops_early(file: BinaryIO, at: int, size: int) -> bool:
    """Tell whether the rest is the beginning of a record: nothing wrong, only too short."""
    file.seek(at)
    rest = file.read(HEADER.size)
    if at + HEADER.size > size:
        return MAGIC.startswith(rest[: len(MAGIC)])
    magic, length, _ = HEADER.unpack(rest)
    return bool(magic == MAGIC and at + HEADER.size + length > size)


def _next_record(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where the next whole record begins."""
    while start < size:
        file.seek(start)
        piece = file.read(PIECE)
        found = piece.find(MAGIC)
        while found >= 0:
            if _record_at(file, start + found, size) is not None:
                return start + found
            found = piece.find(MAGIC, found + 1)
        if len(piece) < len(MAGIC):
            return None
        start += len(piece) - len(MAGIC) + 1
    return None
