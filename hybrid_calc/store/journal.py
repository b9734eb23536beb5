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
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hybrid_calc.errors import StoreError

MAGIC = b"HCJ\x01"
HEADER = struct.Struct("<4sQI")
SUFFIX = ".journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalContent:
    """What is readable of one journal.

    Attributes
    ----------
    payloads
        Complete records, in order.
    damage
        One sentence per damaged record.
    torn_tail
        The sentence about a last record that begins well and stops too early,
        as a killed writer leaves it before the record is acknowledged; empty
        where the end is whole.
    """

    payloads: tuple[bytes, ...]
    damage: tuple[str, ...]
    torn_tail: str = ""


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

    def append(self, payload: bytes) -> None:
        """Write one record durably.

        Raises
        ------
        StoreError
            The disk is full or cannot be written; what was there before is
            intact and the record is not there.
        """
        try:
            if self._descriptor < 0:
                self._open()
            self._write(_frame(payload))
        except OSError as error:
            path = self.path or self._folder
            raise StoreError(
                f"the frame could not be written to {path}: {error.strerror or error}. "
                "Free space or fix the path and run again with --resume; "
                "frames acknowledged before are safe."
            ) from error

    def close(self) -> None:
        """Release the journal; the file stays until its records are in the HDF5 file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self.path = None

    def _open(self) -> None:
        _make_folder(self._folder)
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

    def _write(self, frame: bytes) -> None:
        try:
            view = memoryview(frame)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
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


def read_journal(path: Path) -> JournalContent:
    """Return every complete record of a journal and what is damaged in it.

    A torn tail and damaged records are reported and skipped; the records
    around them are returned.
    """
    data = path.read_bytes()
    payloads: list[bytes] = []
    damage: list[str] = []
    torn_tail = ""
    at = 0
    while at < len(data):
        payload = _record_at(data, at)
        if payload is not None:
            payloads.append(payload)
            at += HEADER.size + len(payload)
            continue
        following = _next_record(data, at + 1)
        if following is None and _stops_early(data, at):
            torn_tail = f"{path.name}: torn tail, {len(data) - at} bytes after byte {at}"
            break
        following = len(data) if following is None else following
        damage.append(f"{path.name}: damaged record from byte {at} to {following}")
        at = following
    return JournalContent(payloads=tuple(payloads), damage=tuple(damage), torn_tail=torn_tail)


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


def _make_folder(folder: Path) -> None:
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


def _record_at(data: bytes, at: int) -> bytes | None:
    if at + HEADER.size > len(data):
        return None
    magic, length, checksum = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    if magic != MAGIC or end > len(data):
        return None
    payload = data[at + HEADER.size : end]
    return payload if _checksum(payload) == checksum else None


def _stops_early(data: bytes, at: int) -> bool:
    """Tell whether the rest is the beginning of a record: nothing wrong, only too short."""
    if at + HEADER.size > len(data):
        return MAGIC.startswith(data[at : at + len(MAGIC)])
    magic, length, _ = HEADER.unpack_from(data, at)
    return bool(magic == MAGIC and at + HEADER.size + length > len(data))


def _next_record(data: bytes, start: int) -> int | None:
    at = data.find(MAGIC, start)
    while at >= 0:
        if _record_at(data, at) is not None:
            return at
        at = data.find(MAGIC, at + 1)
    return None
