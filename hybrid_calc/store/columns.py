"""What frames are selected on: one small row per frame, readable without the frame.

Words (level, regime, run, committee, formula, elements) are kept once in a
table; a column holds the place in the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.geometry import composition_of, geometry_key
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.record import Record

HASHES = ("identity", "question")
"""Content hash of the frame, and of geometry and level; 32 hex digits each."""

NUMBERS: dict[str, tuple[str, str]] = {
    "labelled": ("u1", ""),
    "atoms": ("i4", ""),
    "charge": ("i2", ""),
    "multiplicity": ("i2", ""),
    "step": ("i8", ""),
    "energy": ("f8", "eV"),
    "force_error": ("f8", "eV/A"),
    "spread": ("f8", "eV/A"),
    "good": ("i1", ""),
}
"""Type and unit of every column of numbers.

What is not known is NaN; of ``step`` and ``good`` (within tolerance) it is -1.
"""

WORDS = ("level", "regime", "run", "committee", "formula", "elements")
"""Columns of words; a level is the JSON of all its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of F frames.

    Attributes
    ----------
    hashes
        By the names of `HASHES`, shape (F,), 32 bytes each.
    numbers
        By the names of `NUMBERS`, shape (F,).
    places
        By the names of `WORDS`: place in the table, shape (F,).
    tables
        By the names of `WORDS`: every word once.
    """

    hashes: Mapping[str, NDArray[np.bytes_]]
    numbers: Mapping[str, NDArray[Any]]
    places: Mapping[str, NDArray[np.int32]]
    tables: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.hashes["identity"])

    def words(self, name: str) -> list[str]:
        """Return a column of words, one per frame."""
        table = self.tables[name]
        return [table[place] for place in self.places[name]]

    def identities(self) -> list[str]:
        """Return the content hash of every frame."""
        return [identity.decode() for identity in self.hashes["identity"].tolist()]

    def levels(self) -> tuple[LevelOfTheory, ...]:
        """Return the level of theory of every place of the table."""
        return tuple(LevelOfTheory.from_dict(json.loads(text)) for text in self.tables["level"])

    def take(self, rows: NDArray[Any] | slice) -> Columns:
        """Return the columns of some frames, tables unchanged."""
        return Columns(
            hashes={name: column[rows] for name, column in self.hashes.items()},
            numbers={name: column[rows] for name, column in self.numbers.items()},
            places={name: column[rows] for name, column in self.places.items()},
            tables=self.tables,
        )

    def digest(self) -> str:
        """Return the hash of everything in the columns, 64 hex digits."""
        digest = hashlib.sha256()
        for group in (self.hashes, self.numbers, self.places):
            for name, column in group.items():
                digest.update(f"|{name}|{column.dtype.str}|{column.shape}|".encode())
                digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(tables_text(self.tables).encode())
        return digest.hexdigest()


def tables_text(tables: Mapping[str, Sequence[str]]) -> str:
    """Return the tables as one text."""
    return json.dumps({name: list(tables[name]) for name in WORDS}, sort_keys=True)


def question_of(atoms: Atoms, level: LevelOfTheory) -> str:
    """Return the hash of a geometry and a level, 32 hex digits."""
    return question_at(geometry_key(atoms), level.hash)


def columns_of(records: Iterable[Record]) -> Columns:
    """Return the columns of records."""
    levels: dict[int, tuple[LevelOfTheory, str, str]] = {}
    rows = []
    for record in records:
        level = record.level  # one object for many records; its hash is not cheap
        if id(level) not in levels:
            levels[id(level)] = level, json.dumps(level.to_dict(), sort_keys=True), level.hash
        rows.append(_row(record, *levels[id(level)][1:]))
    tables, places = {}, {}
    for name in WORDS:
        table: dict[str, int] = {}
        found = [table.setdefault(row[name], len(table)) for row in rows]
        tables[name] = tuple(table)
        places[name] = np.array(found, dtype=np.int32)
    return Columns(
        hashes={name: np.array([row[name] for row in rows], dtype="S32") for name in HASHES},
        numbers={
            name: np.array([row[name] for row in rows], dtype=kind)
            for name, (kind, _) in NUMBERS.items()
        },
        places=places,
        tables=tables,
    )


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Return the columns of all parts, one after another, with one table per word."""
    parts = [columns_of([]), *parts]
    tables: dict[str, tuple[str, ...]] = {}
    places: dict[str, NDArray[np.int32]] = {}
    for name in WORDS:
        table: dict[str, int] = {}
        moved = []
        for part in parts:
            new = [table.setdefault(word, len(table)) for word in part.tables[name]]
            moved.append(np.array(new, dtype=np.int32)[part.places[name]])
        tables[name] = tuple(table)
        places[name] = np.concatenate(moved)
    return Columns(
        hashes={name: np.concatenate([p.hashes[name] for p in parts]) for name in HASHES},
        numbers={name: np.concatenate([p.numbers[name] for p in parts]) for name in NUMBERS},
        places=places,
        tables=tables,
    )


def _row(record: Record, level: str, level_hash: str) -> dict[str, Any]:
    atoms, meta = record.atoms(), record.meta
    composition, geometry = composition_of(atoms), record.geometry
    step = meta.get("step")
    return {
        "identity": record.identity_at(geometry, level_hash),
        "question": question_at(geometry, level_hash),
        "labelled": record.label is not None,
        "atoms": len(record.numbers),
        "charge": record.charge,
        "multiplicity": record.multiplicity,
        "step": step if isinstance(step, int) else -1,
        "energy": np.nan if record.label is None else record.label.energy,
        "force_error": _number(meta.get("force_error")),
        "spread": _number(meta.get("spread")),
        "good": -1 if meta.get("good") is None else bool(meta["good"]),
        "level": level,
        "regime": str(meta.get("regime") or "unknown"),
        "run": str(meta.get("run") or ""),
        "committee": f"{meta.get('committee_name', '?')} ({meta.get('committee', '?')})",
        "formula": composition.formula,
        "elements": composition.elements,
    }


def question_at(geometry: str, level_hash: str) -> str:
    """Return `question_of`, given the hashes of geometry and level."""
    return hashlib.sha256(f"{geometry}|{level_hash}".encode()).hexdigest()[:32]


def _number(value: object) -> float:
    return value if isinstance(value, (int, float)) else np.nan
