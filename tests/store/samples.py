"""Records to store, and processes that store them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from hybrid_calc.committee.toy import TOY_LEVEL, ToyCommittee
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.toy import ToyReference
from hybrid_calc.store.catalog import shards_in
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.hdf5 import read_hdf5
from hybrid_calc.store.journals import journal_folder, kept_in
from hybrid_calc.store.record import Record
from hybrid_calc.store.seal import read_seal, write_seal

ROOT = Path(__file__).parents[2]
COMMITTEE = ToyCommittee(3)
REFERENCE = ToyReference()


def water(number: int) -> Atoms:
    """Return one of many different geometries."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=number)
    return atoms


def sample(number: int, atoms: Atoms | None = None, **more) -> Record:
    """Return a record that no other number gives."""
    atoms = water(number) if atoms is None else atoms
    return Record.of(
        atoms,
        **{
            "level": TOY_LEVEL,
            "label": REFERENCE.label(atoms),
            "prediction": COMMITTEE.predict(atoms),
            "meta": {"regime": "intact", "step": number, "spread": 0.1 + 0.2},
        }
        | more,
    )


def crystal(number: int) -> Record:
    """Return a record with a cell and a stress."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=number)
    return sample(number, atoms)


def rejected(number: int) -> Record:
    return sample(number, label=None, rejection="ReferenceNotConverged: three rungs, no luck")


def bare(number: int) -> Record:
    """Return a record of which the committee said nothing."""
    return sample(number, prediction=None, meta={})


def odd(number: int) -> Record:
    """Return a record of numbers and texts that are easily bent on the way."""
    atoms = Atoms("H", positions=[[-0.0, 5e-324, 1e300]], info={"charge": 1, "spin": 1})
    label = Label(
        energy=-0.1 - number * 1e-13,
        forces=np.full((1, 3), -0.0),
        level=TOY_LEVEL,
        rung="2\N{RIGHT SINGLE QUOTATION MARK}nd",
        checks={"gap_ev": 1 / 3, "limit": float("inf")},
        wall_seconds=1e-9,
        versions={"pyscf": "2.14.0"},
    )
    meta = {"regime": "H\N{SUBSCRIPT TWO}\0O", "flags": [], "deep": {"a": [None, True, -0.0]}}
    return Record.of(atoms, level=TOY_LEVEL, label=label, meta=meta)


KINDS = {"molecule": sample, "crystal": crystal, "rejected": rejected, "bare": bare, "odd": odd}


def identities(records) -> Counter:
    return Counter(record.identity for record in records)


def in_file(path: Path) -> Counter:
    """Return how often each frame is in the HDF5 files themselves; they must be whole."""
    damage: list[str] = []
    found: Counter = Counter()
    for file in (*shards_in(path), path):
        found += identities(read_hdf5(file, damage))
    assert not damage
    return found


def bytes_of(path: Path) -> dict[str, bytes]:
    """Return every frame of a store, to the bit, by identity."""
    return {record.identity: record.to_bytes() for record in FrameStore(path).read().records}


def forget_kept(path: Path) -> Path:
    """Take away the kept journals, as of a store whose file alone was copied."""
    for journal in kept_in(journal_folder(path)):
        journal.unlink()
    return path


@contextlib.contextmanager
def editing(path: Path) -> Iterator[h5py.File]:
    """Change a file as no store would, and seal it as if it had been written so."""
    seal = read_seal(path)
    if seal is not None:
        os.truncate(path, seal.size)
    with h5py.File(path, "a") as file:
        yield file
    if seal is not None:
        with path.open("r+b", buffering=0) as raw:
            write_seal(raw, schema=seal.schema, frames=seal.frames)


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    """Start a Python process that can import the package and these samples."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
