"""The store of validated frames: journals first, HDF5 files underneath."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from ase import Atoms
from filelock import FileLock
from numpy.typing import NDArray

from hybrid_calc.errors import InputError, LevelMismatchError, StoreDamagedError
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.bound_level import bind_level, bound_level
from hybrid_calc.store.catalog import Catalog, shard_folder
from hybrid_calc.store.columns import Columns, question_at, question_of
from hybrid_calc.store.compaction import keep_aside, rewrite, unrecoverable
from hybrid_calc.store.hdf5 import SCHEMA, check_format
from hybrid_calc.store.journal import Journal, payloads_at, sync_folder, take_over
from hybrid_calc.store.journals import DAMAGED, KEPT, journal_folder, journals_in, kept_in
from hybrid_calc.store.part import H5_SUFFIXES
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.reader import FrameReader
from hybrid_calc.store.record import Record
from hybrid_calc.store.seal import image_is_whole, read_seal

COMPACTION_TIMEOUT_S = 600.0
"""How long to wait for another process that rewrites the HDF5 file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Everything readable in a store.

    Attributes
    ----------
    records
        Each frame once, in the order of files and journals.
    damage
        One sentence per place that could not be read.
    torn_tails
        One sentence per journal whose last, never acknowledged record is incomplete.
    """

    records: tuple[Record, ...]
    damage: tuple[str, ...] = ()
    torn_tails: tuple[str, ...] = ()


class FrameStore:
    """Append validated frames; opening an existing store goes on with it.

    Many processes may write to one store at once.  `append` returns when the
    frame is durable.  The HDF5 file is rewritten by `compact` and `close`.

    Parameters
    ----------
    path
        Of the HDF5 file, ``run.h5``; journals live in ``run.h5.journals``,
        immutable shards in ``run.h5.shards``.

    Raises
    ------
    InputError
        The path is a folder, or not named ``.h5`` or ``.hdf5``.
    StoreDamagedError
        The path is some other file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if self.path.suffix not in H5_SUFFIXES or self.path.is_dir():
            raise InputError(f"a store is a file NAME.h5; got {path}.")
        self._folder = journal_folder(self.path)
        self._journal = Journal(self._folder)
        if self.path.exists():
            check_format(self.path, ours=bool(kept_in(self._folder)))
        self._reader = FrameReader(self.path)
        self._opened = self.catalog()
        self._appended: dict[str, tuple[Path, int]] = {}
        self._asked: dict[str, str] = {}
        self._bound: str | None = None
        self._last_level: tuple[LevelOfTheory, str] | None = None
        self._levels = _levels_of(self._opened.columns)

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
        return len(self.catalog())

    def catalog(self) -> Catalog:
        """Return which frames there are now, and where."""
        return self._reader.catalog()

    def journals(self) -> Catalog:
        """Return what all journals hold, kept ones included; reads them all."""
        return self._reader.journals()

    @property
    def damage(self) -> tuple[str, ...]:
        """What was found damaged, on looking and on reading since; `read` looks at everything."""
        found = [*self._opened.damage, *self._reader.damage]
        if self._reader.rescued:
            found.append(
                f"{len(self._reader.rescued)} damaged frames are read from the journals kept beside"
            )
        return tuple(dict.fromkeys(found))

    @property
    def lost(self) -> int:
        """How many frames were found to be readable nowhere, as far as is known."""
        return len(self._reader.lost) + (self._opened.lost or 0)

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
        if self._bound == level_hash:
            return
        known = dict(self._levels)
        bound = bound_level(self._folder)
        if bound is not None:
            known[bound.hash] = bound
        others = [other for key, other in known.items() if key != level_hash]
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
        level_hash = self._hash_of(record.level)
        if record.label is not None and self._bound != level_hash:
            self._bind(record.level)
        geometry = record.geometry
        identity = record.identity_at(geometry, level_hash)
        if identity in self._appended or self._holds(identity):
            return False
        self._appended[identity] = self._journal.append(record.to_bytes())
        if record.label is not None:
            self._levels[level_hash] = record.level
            self._asked[question_at(geometry, level_hash)] = identity
        return True

    def find_label(self, atoms: Atoms, level: LevelOfTheory) -> Label | None:
        """Return the label of exactly this geometry at this level, or None."""
        question = question_of(atoms, level)
        if question in self._asked:
            path, start = self._appended[self._asked[question]]
            return Record.from_bytes(next(payloads_at(path, [start]))).label
        place = self._opened.find_label(question)
        return None if place is None else self._label_at(place)

    def read(self) -> Content:
        """Return every frame of files and journals, each once, and what is damaged."""
        records = tuple(self)
        now = self.catalog()
        return Content(
            records=records,
            damage=tuple(dict.fromkeys([*now.damage, *self.damage])),
            torn_tails=now.torn_tails,
        )

    def __iter__(self) -> Iterator[Record]:
        """Yield every frame once; of a file, one block of frames is held at a time."""
        catalog = self.catalog()
        return (record for _, record in self._reader.read(catalog, np.arange(len(catalog))))

    def columns(self) -> Columns:
        """Return what frames are selected on, of every frame, in the order of `__iter__`."""
        return self.catalog().columns

    def select(self, query: Query) -> Iterator[Record]:
        """Yield the frames that match; the others are not read."""
        catalog = self.catalog()
        places = np.flatnonzero(matching(catalog.columns, query))
        return (record for _, record in self._reader.read(catalog, places))

    def at(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Record]]:
        """Yield the frames at some places of `columns`, increasing; the others are not read."""
        return self._reader.read(self.catalog(), places)

    def compact(self, *, repair: bool = False) -> None:
        """Bring the files up to date with every journal whose writer is gone or is us.

        Parameters
        ----------
        repair
            Look at every byte of every file, write damaged ones anew, with
            what the kept journals hold, and go on without frames that can be
            read nowhere; the files that held them are kept aside.

        Raises
        ------
        StoreError
            A file could not be written; the journals are untouched.
        StoreDamagedError
            Frames can be read nowhere, and this is no repair; everything is
            left as it is.
        """
        self._journal.close()
        with FileLock(self.path.with_name(self.path.name + ".lock"), COMPACTION_TIMEOUT_S):
            for left in self.path.parent.glob(f"{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)  # of a compactor that was killed
            locks = {path: take_over(path) for path in journals_in(self._folder)}
            finished = [path for path, lock in locks.items() if lock is not None]
            try:
                catalog = self.catalog()
                stale = catalog.schema != SCHEMA or bool(catalog.broken)
                if finished or stale or repair or not self.path.exists():
                    self._rewrite(catalog, finished, repair=repair)
            finally:
                for lock in locks.values():
                    if lock is not None:
                        lock.release()
        self._appended.clear()
        self._asked.clear()
        self._opened = self.catalog()

    def close(self) -> None:
        """Compact and release everything; the store can still be read.

        A store with frames that can be read nowhere is left as it is, and says
        so in `damage`; everything else is safe in its journals.
        """
        try:
            self.compact()
        except StoreDamagedError as error:
            self._reader.damage.append(str(error))

    def _rewrite(self, catalog: Catalog, finished: list[Path], *, repair: bool) -> None:
        if catalog.lost != 0 and not repair:
            name = ", ".join(path.name for path in catalog.broken)
            raise unrecoverable(name, "frames in it can be read nowhere")
        if repair:
            catalog = catalog.joined_by(self._reader.journals())
        damaged = [path for path in catalog.broken if path.exists()]
        if repair:
            files = [part.path for part in catalog.parts if not part.is_journal]
            damaged += [path for path in files if not _is_whole(path)]
        asides = keep_aside(self.path, damaged)
        before = len(self._reader.lost)
        anew = [path for path in damaged if path != self.path]
        try:
            rewrite(
                self.path,
                catalog,
                lambda places: self._reader.read(catalog, places),
                anew=anew,
                giving_up=repair,
            )
        except BaseException:
            for aside in asides:
                aside.unlink()
            raise
        for path in damaged:
            if path != self.path:
                path.unlink(missing_ok=True)
        if catalog.lost == 0 and len(self._reader.lost) == before:
            for aside in asides:
                aside.unlink()
        self._reader.damage.clear()
        self._reader.rescued.clear()
        for path in finished:
            whole = not any(sentence.startswith(f"{path.name}:") for sentence in catalog.damage)
            path.rename(path.with_suffix(KEPT if whole else DAMAGED))
            path.with_suffix(".lock").unlink(missing_ok=True)
        if self._folder.exists():
            sync_folder(self._folder)

    def _hash_of(self, level: LevelOfTheory) -> str:
        """Return the hash of a level; most often it is the one that was asked last."""
        if self._last_level is None or self._last_level[0] is not level:
            self._last_level = level, level.hash
        return self._last_level[1]

    def _bind(self, level: LevelOfTheory) -> None:
        """Make this the store's level, for every process that writes to it."""
        self.check_level(level)
        bind_level(self._folder, level)
        self.check_level(level)  # another process may have been the first
        self._bound = self._hash_of(level)

    def _label_at(self, place: int) -> Label | None:
        """Return the label of a frame; one that can be read nowhere is not there."""
        for _, record in self._reader.read(self._opened, np.array([place])):
            return record.label
        return None

    def _holds(self, identity: str) -> bool:
        """Tell whether a frame is there; one that can be read nowhere must be written again."""
        place = self._opened.find(identity)
        if place is None:
            return False
        return any(True for _ in self._reader.read(self._opened, np.array([place])))


def open_existing(path: str | Path) -> FrameStore:
    """Return a store to look into.

    Raises
    ------
    InputError
        There is neither a file nor a journal nor a shard of that name.
    """
    path = Path(path)
    if not any(place.exists() for place in (path, journal_folder(path), shard_folder(path))):
        raise InputError(f"there is no store {path}.")
    return FrameStore(path)


def _levels_of(columns: Columns) -> dict[str, LevelOfTheory]:
    """Return the levels of the labels by their hash."""
    levels = columns.levels()
    labelled = columns.numbers["labelled"].astype(bool)
    found = (levels[place] for place in np.unique(columns.places["level"][labelled]).tolist())
    return {level.hash: level for level in found}


def _is_whole(path: Path) -> bool:
    """Tell whether every byte of a file is what was written."""
    seal = read_seal(path)
    return seal is not None and image_is_whole(path, seal)
