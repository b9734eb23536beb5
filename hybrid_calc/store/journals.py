"""The journals of one store: of writers that live or were killed, and those kept since.

Once the frames of a journal are in the HDF5 files it is kept, under another
ending: what a damaged file cannot give any more is read from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hybrid_calc.errors import StoreDamagedError
from hybrid_calc.store.block import FRAMES_PER_BLOCK, batch_by
from hybrid_calc.store.columns import columns_of, concatenate
from hybrid_calc.store.journal import SUFFIX, Notes, read_journal
from hybrid_calc.store.part import Part, stamp_of
from hybrid_calc.store.record import Record

KEPT, DAMAGED = ".kept", ".damaged"
"""Endings of journals whose frames are in the files; some of a damaged one could not be read."""


def journal_folder(store: Path) -> Path:
    """Return where the journals of a store live: ``run.h5.journals``."""
    return store.with_name(store.name + ".journals")


def journals_in(folder: Path) -> list[Path]:
    """Return the journals of a folder, which need not exist."""
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.exists() else []


def kept_in(folder: Path) -> list[Path]:
    """Return the kept journals of a folder, which need not exist."""
    found = [path for ending in (KEPT, DAMAGED) for path in folder.glob(f"*{ending}")]
    return sorted(found) if folder.exists() else []


def index_journal(path: Path, notes: Notes) -> Part:
    """Return what a journal holds and where; one block of frames is held at a time."""
    stamp = stamp_of(path)
    places: list[int] = []

    def records() -> Iterator[Record]:
        for number, (at, payload) in enumerate(read_journal(path, notes)):
            try:
                record = Record.from_bytes(payload)
            except StoreDamagedError as error:
                notes.damage.append(f"{path.name}: record {number}: {error}")
                continue
            places.append(at)
            yield record

    columns = concatenate([columns_of(batch) for batch in batch_by(records(), FRAMES_PER_BLOCK)])
    return Part(path=path, stamp=stamp, columns=columns, places=np.array(places, dtype=np.int64))
