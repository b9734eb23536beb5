"""Which frames a store has and where each is, without reading one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.store.columns import Columns, concatenate
from hybrid_calc.store.hdf5 import Index, read_index
from hybrid_calc.store.journal import Notes
from hybrid_calc.store.journals import index_journal, journal_folder, journals_in, kept_in
from hybrid_calc.store.part import Part, stamp_of
from hybrid_calc.store.seal import read_seal

Stamp = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Every frame of a store, once.

    Attributes
    ----------
    parts
        Shards, the store's own file, journals, and where a file cannot be
        read the kept journals; none has a frame of one before it.
    shards
        Number and frames of the shards that can be read.
    schema
        Of the store's own file; 0 where there is none that can be read.
    broken
        Files that are missing, cannot be opened, or whose frames had to be
        read one by one and could not all be.
    lost
        How many frames of those are nowhere else; None where nobody knows.
    damage, torn_tails
        One sentence per place.
    """

    parts: tuple[Part, ...]
    shards: tuple[tuple[int, int], ...] = ()
    schema: int = 0
    broken: tuple[Path, ...] = ()
    lost: int | None = 0
    damage: tuple[str, ...] = ()
    torn_tails: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def joined_by(self, other: Catalog) -> Catalog:
        """Return this with the frames that only the other has."""
        return replace(self, parts=(*self.parts, *without(other.parts, self.parts)))

    @cached_property
    def columns(self) -> Columns:
        """What frames are selected on, part after part."""
        return concatenate([part.columns for part in self.parts])

    def within(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Part, NDArray[np.int64]]]:
        """Yield first place, part and wanted indices of every part that has some of the places."""
        first = 0
        for part in self.parts:
            here = places[(places >= first) & (places < first + len(part))] - first
            if len(here):
                yield first, part, here
            first += len(part)

    def find(self, identity: str) -> int | None:
        """Return the place of a frame by its content hash."""
        return _search(*self._identities, identity)

    def find_label(self, question: str) -> int | None:
        """Return the place of the label of a geometry and level."""
        return _search(*self._questions, question)

    @cached_property
    def _identities(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        return _sorted(self.columns.hashes["identity"], np.arange(len(self)))

    @cached_property
    def _questions(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        labelled = np.flatnonzero(self.columns.numbers["labelled"])
        return _sorted(self.columns.hashes["question"][labelled], labelled)


class Cataloguer:
    """Look at a store's files; those that did not change are not looked at again.

    Parameters
    ----------
    path
        Of the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = journal_folder(path)
        self._indices: dict[Path, tuple[Stamp, Index | None, list[str]]] = {}
        self._parts: dict[Path, tuple[Stamp, Part, Notes]] = {}
        self._last: tuple[object, Catalog] | None = None
        self._last_journals: tuple[object, Catalog] | None = None

    def catalog(self) -> Catalog:
        """Return what is there now."""
        while True:
            journals, files, _ = now = self._stamps()
            if self._last is not None and self._last[0] == now:
                return self._last[1]
            found = self._look(journals, files)
            after = self._stamps()
            # While we looked, journals may have grown; a compaction means looking again.
            if files == after[1] and journals.keys() <= after[0].keys():
                self._last = now, found
                return found

    def _stamps(self) -> tuple[dict[Path, Stamp], dict[Path, Stamp], list[Path]]:
        # Journals first: a compactor takes them away only after a file has their frames.
        journals = {path: stamp_of(path) for path in journals_in(self._folder)}
        files = {path: stamp_of(path) for path in (*shards_in(self._path), self._path)}
        return journals, files, aside_in(self._path)

    def journals(self) -> Catalog:
        """Return what all journals hold, those of writers and the kept ones; reads them all."""
        paths = [*journals_in(self._folder), *kept_in(self._folder)]
        now = {path: stamp_of(path) for path in paths}
        if self._last_journals is None or self._last_journals[0] != now:
            parts, notes = self._index_journals(now)
            held = Catalog(
                parts=tuple(without(parts, ())),
                damage=tuple(notes.damage),
                torn_tails=tuple(notes.torn_tails),
            )
            self._last_journals = now, held
        return self._last_journals[1]

    def _look(self, journals: dict[Path, Stamp], files: dict[Path, Stamp]) -> Catalog:
        live, notes = self._index_journals(journals)
        damage: list[str] = []
        parts: dict[Path, Part] = {}
        broken: list[Path] = []
        held_by: dict[Path, int] = {}
        own: Index | None = None
        for path, stamp in files.items():
            index = self._index(path, stamp, damage) if stamp else None
            if index is not None:
                parts[path] = Part(path=path, stamp=stamp, columns=index.columns, places=index.rows)
                own = index if path == self._path else own
                held_by[path] = index.frames
                if index.frames > len(index.rows):
                    broken.append(path)
            elif stamp or kept_in(self._folder) or (len(files) > 1 and not journals):
                broken.append(path)  # not there before the first compaction, which keeps journals
        listed = {} if own is None else {shard_path(self._path, n): f for n, f in own.shards}
        # A shard that is not listed is a copy, of a compaction or a repair that was killed.
        broken = [path for path in broken if own is None or path in (self._path, *listed)]
        broken += [path for path in listed if path not in files]
        damage += [f"{path.name} is missing" for path in broken if not stamp_of(path)]
        held = list(parts.values())
        if any(path not in listed for path in parts if path != self._path):
            held = without(held, ())  # a shard of a compaction that was killed, or listed elsewhere
        held += without(live, held)
        lost: int | None = 0
        if broken:
            rescued = without(self.journals().parts, held)
            held += rescued
            found = sum(map(len, rescued))
            known = found + sum(len(parts[path]) for path in broken if path in parts)
            lost = _lost(broken, listed | held_by, known)
            damage.append(_fallback(broken, found, lost))
        damage += [
            f"{path.name}: kept aside by a repair, with frames that could not be read; remove it "
            "to give them up"
            for path in aside_in(self._path)
        ]
        return Catalog(
            parts=tuple(held),
            shards=tuple(
                (int(path.stem), len(part)) for path, part in parts.items() if path != self._path
            ),
            schema=0 if own is None else own.schema,
            broken=tuple(broken),
            lost=lost,
            damage=(*damage, *notes.damage),
            torn_tails=tuple(notes.torn_tails),
        )

    def _index(self, path: Path, stamp: Stamp, damage: list[str]) -> Index | None:
        if path not in self._indices or self._indices[path][0] != stamp:
            found: list[str] = []
            self._indices[path] = stamp, read_index(path, found), found
        _, index, sentences = self._indices[path]
        damage += sentences
        return index

    def _index_journals(self, journals: dict[Path, Stamp]) -> tuple[list[Part], Notes]:
        parts, all_notes = [], Notes()
        for path, stamp in journals.items():
            if path not in self._parts or self._parts[path][0] != stamp:
                notes = Notes()
                try:
                    self._parts[path] = stamp, index_journal(path, notes), notes
                except FileNotFoundError:
                    continue  # compacted since it was listed: its frames are in a file
            _, part, notes = self._parts[path]
            parts.append(part)
            all_notes.damage += notes.damage
            all_notes.torn_tails += notes.torn_tails
        return parts, all_notes


def without(parts: Sequence[Part], before: Sequence[Part]) -> list[Part]:
    """Return parts without the frames that those before have, or an earlier part."""
    wanted = {identity for part in parts for identity in part.identities.tolist()}
    taken: set[bytes] = set()
    for part in before:
        taken |= wanted.intersection(part.identities.tolist())
    left = []
    for part in parts:
        new = []
        for index, identity in enumerate(part.identities.tolist()):
            if identity not in taken:
                taken.add(identity)
                new.append(index)
        left.append(part if len(new) == len(part) else part.take(np.array(new, dtype=np.int64)))
    return left


def shard_folder(store: Path) -> Path:
    """Return where the immutable shards of a store live: ``run.h5.shards``."""
    return store.with_name(store.name + ".shards")


def shard_path(store: Path, number: int) -> Path:
    """Return the path of a shard."""
    return shard_folder(store) / f"{number:06d}.h5"


def shards_in(store: Path) -> list[Path]:
    """Return the shards of a store, in order."""
    folder = shard_folder(store)
    return sorted(folder.glob("[0-9]*.h5")) if folder.exists() else []


def aside_in(store: Path) -> list[Path]:
    """Return the damaged files that a repair kept aside."""
    return sorted(store.parent.glob(f"{store.name}.aside-*"))


def _sorted(
    keys: NDArray[np.bytes_], places: NDArray[np.int64]
) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]


def _search(keys: NDArray[np.bytes_], places: NDArray[np.int64], key: str) -> int | None:
    at = int(np.searchsorted(keys, key.encode()))
    return int(places[at]) if at < len(keys) and keys[at] == key.encode() else None


def _lost(broken: Sequence[Path], frames: dict[Path, int], found: int) -> int | None:
    """Return how many frames of broken files were not found again, None where nobody knows."""
    held = 0
    for path in broken:
        seal = read_seal(path) if path.exists() else None
        if seal is None and path not in frames and path.exists():
            return None
        held += frames.get(path, 0) if seal is None else seal.frames
    return max(0, held - found)


def _fallback(broken: Sequence[Path], rescued: int, lost: int | None) -> str:
    names = ", ".join(path.name for path in broken)
    found = f"{rescued} frames are read from the journals kept beside, instead of {names}"
    if lost is None:
        return f"{found}; whether it held more is not known"
    return f"{found}; {lost} are lost" if lost else f"{found}; none is lost"
