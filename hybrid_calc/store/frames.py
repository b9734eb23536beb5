"""The store of validated frames: journals first, one HDF5 file underneath."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ase import Atoms
from filelock import FileLock

from hybrid_calc.errors import InputError, LevelMismatchError, StoreDamagedError
from hybrid_calc.geometry import geometry_key
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.hdf5 import check_format, read_hdf5, write_hdf5
from hybrid_calc.store.journal import SUFFIX, Journal, read_journal, sync_folder, take_over
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
        content = self.read()
        self.damage = content.damage
        self._known = {record.identity for record in content.records}
        self._labels = _labels_by_question(content.records)
        self._levels = {r.level.hash: r.level for r in content.records if r.label is not None}

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
        return len(self._known)

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
        others = [known for key, known in self._levels.items() if key != level.hash]
        if others:
            raise LevelMismatchError(
                f"store {self.path.name} holds labels of {others[0]} ({others[0].hash}); the "
                f"reference solves {level} ({level.hash}). Give the run a store of its own, or "
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
        if record.identity in self._known:
            return False
        self._journal.append(record.to_bytes())
        self._known.add(record.identity)
        if record.label is not None:
            self._levels[record.level.hash] = record.level
            self._labels[_question(record.atoms(), record.level)] = record.label
        return True

    def find_label(self, atoms: Atoms, level: LevelOfTheory) -> Label | None:
        """Return the label of exactly this geometry at this level, or None."""
        return self._labels.get(_question(atoms, level))

    def read(self) -> Content:
        """Return every frame of file and journals, each once, and what is damaged."""
        file_damage: list[str] = []
        journal_damage: list[str] = []
        torn_tails: list[str] = []
        records: dict[str, Record] = {}
        # Journals first: a compactor deletes them only after the file has their frames.
        journalled = self._read_journals(journal_damage, torn_tails)
        if self.path.exists():
            records = {r.identity: r for r in read_hdf5(self.path, file_damage)}
        for record in journalled:
            records.setdefault(record.identity, record)
        return Content(
            records=tuple(records.values()),
            file_damage=tuple(file_damage),
            journal_damage=tuple(journal_damage),
            torn_tails=tuple(torn_tails),
        )

    def __iter__(self) -> Iterator[Record]:
        return iter(self.read().records)

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
            locks = {path: take_over(path) for path in self._journals()}
            finished = [path for path, lock in locks.items() if lock is not None]
            try:
                if finished or not self.path.exists():
                    self._rewrite(finished)
            finally:
                for lock in locks.values():
                    if lock is not None:
                        lock.release()

    def close(self) -> None:
        """Compact and release everything; the store can still be read."""
        self.compact()

    def _rewrite(self, finished: list[Path]) -> None:
        content = self.read()
        if content.file_damage:
            raise StoreDamagedError(
                f"{content.file_damage[0]}. The file is left as it is; frames in "
                f"{self._folder.name} are safe. Move the file away and compact again to keep "
                "what the journals hold."
            )
        write_hdf5(self.path, content.records)
        for path in finished:
            if any(sentence.startswith(f"{path.name}:") for sentence in content.journal_damage):
                path.rename(path.with_suffix(".damaged"))
            else:
                path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        if self._folder.exists():
            sync_folder(self._folder)

    def _journals(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}")) if self._folder.exists() else []

    def _read_journals(self, damage: list[str], torn_tails: list[str]) -> list[Record]:
        records = []
        for path in self._journals():
            try:
                content = read_journal(path)
            except FileNotFoundError:
                continue  # compacted since it was listed: its frames are in the file
            damage += content.damage
            torn_tails += [content.torn_tail] if content.torn_tail else []
            for number, payload in enumerate(content.payloads):
                try:
                    records.append(Record.from_bytes(payload))
                except StoreDamagedError as error:
                    damage.append(f"{path.name}: record {number}: {error}")
        return records


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


def _question(atoms: Atoms, level: LevelOfTheory) -> tuple[str, str]:
    return geometry_key(atoms), level.hash


def _labels_by_question(records: tuple[Record, ...]) -> dict[tuple[str, str], Label]:
    return {
        _question(record.atoms(), record.level): record.label
        for record in records
        if record.label is not None
    }
