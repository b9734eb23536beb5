"""The store of validated frames: journals first, one HDF5 file underneath."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from ase import Atoms
from filelock import FileLock
from numpy.typing import NDArray

from hybrid_calc.errors import InputError, LevelMismatchError, StoreError
from hybrid_calc.geometry import geometry_key
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.columns import Columns, columns_of, concatenate, question_at, question_of
from hybrid_calc.store.compaction import rewrite
from hybrid_calc.store.hdf5 import (
    check_format,
    read_blocks,
    read_columns,
    read_hdf5,
    read_rows,
    schema_of,
)
from hybrid_calc.store.journal import Journal, sync_folder, take_over
from hybrid_calc.store.journals import journals_in, read_journals
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.record import Record

COMPACTION_TIMEOUT_S = 600.0
"""How long to wait for another process that rewrites the HDF5 file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything readable in a store.

    Attributes
    ----------
    records
        Each frame once, in the order of file and journals.
    file_damage, journal_damage
        One sentence per place of the HDF5 file and of the journals that could
        not be read.
    torn_tails
        One sentence per journal whose last, never acknowledged record is incomplete.
    """

    records: tuple[Record, ...]
    file_damage: tuple[str, ...] = ()
    journal_damage: tuple[str, ...] = ()
    torn_tails: tuple[str, ...] = ()

    @property
    def damage(self) -> tuple[str, ...]:
        """Everything that was lost; a torn tail was never a frame."""
        return self.file_damage + self.journal_damage


class FrameStore:
    """Append validated frames; opening an existing store goes on with it.

    Many processes may write to one store at once.  `append` returns when the
    frame is durable.  The HDF5 file is rewritten by `compact` and `close`.

    Parameters
    ----------
    path
        Of the HDF5 file, ``run.h5``; journals live in ``run.h5.journals``.

    Raises
    ------
    InputError
        The path is a folder, or not named ``.h5`` or ``.hdf5``.
    StoreDamagedError
        The path is some other file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if self.path.suffix not in {".h5", ".hdf5"} or self.path.is_dir():
            raise InputError(f"a store is a file NAME.h5; got {path}.")
        self._folder = self.path.with_name(self.path.name + ".journals")
        self._journal = Journal(self._folder)
        if self.path.exists():
            check_format(self.path)
        journalled = read_journals(self._folder)
        self._damage = list(journalled.damage)
        self._known = set(journalled.records)
        self._labels = {
            question_of(record.atoms(), record.level): record.label
            for record in journalled.records.values()
            if record.label is not None
        }
        self._levels: dict[str, LevelOfTheory] = {}
        self._last_level: tuple[LevelOfTheory, str] | None = None
        self._filed: dict[str, int] = {}
        self._questions: dict[str, int] = {}
        if self.path.exists():
            self._index()
        labelled = [r for r in journalled.records.values() if r.label is not None]
        self._levels |= {record.level.hash: record.level for record in labelled}

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of frames, rejected ones included."""
        return len(self._filed.keys() | self._known)

    @property
    def damage(self) -> tuple[str, ...]:
        """What was found damaged, on opening and on reading since; `read` looks at everything."""
        return tuple(dict.fromkeys(self._damage))

    @property
    def levels(self) -> tuple[LevelOfTheory, ...]:
        """Levels of theory of the labels; one in an ordinary store."""
        return tuple(self._levels.values())

    def check_level(self, level: LevelOfTheory) -> None:
        """Refuse a level other than the store's.

        Raises
        ------
        LevelMismatchError
            The store holds labels of another level.
        """
        level_hash = self._hash_of(level)
        others = [known for key, known in self._levels.items() if key != level_hash]
        if others:
            raise LevelMismatchError(
                f"store {self.path.name} holds labels of {others[0]} ({others[0].hash}); the "
                f"reference solves {level} ({level_hash}). Give the run a store of its own, or "
                "the reference the store's level."
            )

    def append(self, record: Record) -> bool:
        """Write one frame durably; return False where it was there already.

        Raises
        ------
        LevelMismatchError
            Its label is of another level than the store's.
        StoreError
            It could not be written; nothing was lost.
        """
        if record.label is not None:
            self.check_level(record.level)
        geometry, level_hash = geometry_key(record.atoms()), self._hash_of(record.level)
        identity = record.identity_at(geometry, level_hash)
        if identity in self._known or self._is_filed(identity):
            return False
        self._journal.append(record.to_bytes())
        self._known.add(identity)
        if record.label is not None:
            self._levels[level_hash] = record.level
            self._labels[question_at(geometry, level_hash)] = record.label
        return True

    def find_label(self, atoms: Atoms, level: LevelOfTheory) -> Label | None:
        """Return the label of exactly this geometry at this level, or None."""
        question = question_of(atoms, level)
        if question in self._labels:
            return self._labels[question]
        record = self._fetch(question, self._questions)
        return None if record is None else record.label

    def read(self) -> Content:
        """Return every frame of file and journals, each once, and what is damaged."""
        file_damage: list[str] = []
        records: dict[str, Record] = {}
        # Journals first: a compactor deletes them only after the file has their frames.
        journalled = read_journals(self._folder)
        if self.path.exists():
            records = {r.identity: r for r in read_hdf5(self.path, file_damage)}
        for identity, record in journalled.records.items():
            records.setdefault(identity, record)
        return Content(
            records=tuple(records.values()),
            file_damage=tuple(file_damage),
            journal_damage=journalled.damage,
            torn_tails=journalled.torn_tails,
        )

    def __iter__(self) -> Iterator[Record]:
        """Yield every frame once; of the file, one block of frames is held at a time."""
        pending = dict(read_journals(self._folder).records)
        if self.path.exists():
            for _, block, good in read_blocks(self.path, self._damage):
                for index in good:
                    pending.pop(block.identities[index], None)
                    yield block.record(index)
        yield from pending.values()

    def columns(self) -> Columns:
        """Return what frames are selected on, of every frame, in the order of `__iter__`."""
        return self._selectable()[0]

    def select(self, query: Query) -> Iterator[Record]:
        """Yield the frames that match; the others are not read.

        Raises
        ------
        StoreError
            The file was replaced by another store's while it was read.
        """
        for _, record in self.at(np.flatnonzero(matching(self.columns(), query))):
            yield record

    def at(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Record]]:
        """Yield the frames at some places of `columns`, increasing; the others are not read.

        Raises
        ------
        StoreError
            The file was replaced by another store's while it was read.
        """
        columns, rows, pending = self._selectable()
        identities, filed = columns.identities(), len(rows)
        wanted = places[places < filed]
        if len(wanted):
            place_of = dict(zip(rows[wanted].tolist(), wanted.tolist(), strict=True))
            for row, record in read_rows(self.path, self._damage, rows[wanted]):
                if record.identity != identities[place_of[row]]:
                    raise StoreError(f"{self.path} was replaced while it was read; read it again.")
                yield place_of[row], record
        for place in places[places >= filed].tolist():
            yield place, pending[identities[place]]

    def compact(self) -> None:
        """Rewrite the HDF5 file with the frames of every journal whose writer is gone or is us.

        Raises
        ------
        StoreError
            The file could not be rewritten; the journals are untouched.
        StoreDamagedError
            The present file is damaged; it is left as it is for a rescue.
        """
        self._journal.close()
        with FileLock(self.path.with_name(self.path.name + ".lock"), COMPACTION_TIMEOUT_S):
            for left in self.path.parent.glob(f"{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)  # of a compactor that was killed
            locks = {path: take_over(path) for path in journals_in(self._folder)}
            finished = [path for path, lock in locks.items() if lock is not None]
            try:
                if finished or not self.path.exists() or schema_of(self.path) == 1:
                    self._rewrite(finished)
            finally:
                for lock in locks.values():
                    if lock is not None:
                        lock.release()

    def close(self) -> None:
        """Compact and release everything; the store can still be read."""
        self.compact()

    def _rewrite(self, finished: list[Path]) -> None:
        journalled = read_journals(self._folder)
        rewrite(self.path, journalled.records)
        for path in finished:
            if journalled.damages(path):
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        if self._folder.exists():
            sync_folder(self._folder)

    def _hash_of(self, level: LevelOfTheory) -> str:
        """Return the hash of a level; most often it is the one that was asked last."""
        if self._last_level is None or self._last_level[0] is not level:
            self._last_level = level, level.hash
        return self._last_level[1]

    def _index(self) -> None:
        """Note which frames and questions the file has, and where."""
        columns, rows = read_columns(self.path, self._damage)
        self._filed = dict(zip(columns.identities(), rows.tolist(), strict=True))
        labelled = columns.numbers["labelled"].astype(bool)
        questions = [text.decode() for text in columns.hashes["question"][labelled].tolist()]
        self._questions = dict(zip(questions, rows[labelled].tolist(), strict=True))
        levels = columns.levels()
        for place in np.unique(columns.places["level"][labelled]):
            self._levels[levels[place].hash] = levels[place]

    def _fetch(self, key: str, places: dict[str, int]) -> Record | None:
        """Return the frame of a key in the file; one that cannot be read is not there."""
        if key not in places:
            return None
        rows = np.array([places[key]], dtype=np.int64)
        for _, record in read_rows(self.path, self._damage, rows):
            if key in {record.identity, question_of(record.atoms(), record.level)}:
                return record
        del places[key]
        return None

    def _is_filed(self, identity: str) -> bool:
        """Tell whether the file has a frame; one that is damaged must be written again."""
        return self._fetch(identity, self._filed) is not None

    def _selectable(self) -> tuple[Columns, NDArray[np.int64], dict[str, Record]]:
        """Return columns of all frames, the rows of those in the file, and the others."""
        pending = dict(read_journals(self._folder).records)
        columns, rows = columns_of([]), np.zeros(0, dtype=np.int64)
        if self.path.exists():
            columns, rows = read_columns(self.path, self._damage)
        for identity in columns.identities() if pending else []:
            pending.pop(identity, None)
        return concatenate([columns, columns_of(pending.values())]), rows, pending


def open_existing(path: str | Path) -> FrameStore:
    """Return a store to look into.

    Raises
    ------
    InputError
        There is neither a file nor a journal of that name.
    """
    path = Path(path)
    if not path.exists() and not path.with_name(path.name + ".journals").exists():
        raise InputError(f"there is no store {path}.")
    return FrameStore(path)
