"""Frames from files: what was exported comes back with level, checks and provenance."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.db import connect

from hybrid_calc.errors import InputError
from hybrid_calc.geometry import check_structure
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.archive import STORE_NAME
from hybrid_calc.store.export import HEADER_KEY
from hybrid_calc.store.frames import FrameStore, open_existing
from hybrid_calc.store.record import Record

DATABASES = {".db", ".json"}


def merge(target: FrameStore, records: Iterable[Record]) -> tuple[int, int]:
    """Append records; return how many were new and how many were there already.

    Raises
    ------
    LevelMismatchError
        A label is of another level than the store's; the frames before it are in.
    """
    new = there = 0
    for record in records:
        added = target.append(record)
        new, there = new + added, there + (not added)
    return new, there


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFrame:
    """A frame of a file that does not come from a store: what it says, unchecked.

    Attributes
    ----------
    atoms
        The geometry with everything in ``info``; charge and spin (2S+1) under
        these names.
    energy
        eV; None where the file has none.
    forces
        eV/A; None where the file has none, as with most coupled-cluster sets.
    stress
        Voigt-6, eV/A^3, or None.
    place
        File and number of the frame, for people.
    number
        Of the frame in the file.
    """

    atoms: Atoms
    energy: float | None
    forces: Any
    stress: Any
    place: str
    number: int


def read_frames(
    path: Path,
    level: LevelOfTheory | None = None,
    judge: Callable[[ForeignFrame], Record | None] | None = None,
) -> Iterator[Record]:
    """Yield the frames of an archive, an ASE database, a store, or anything ``ase.io`` reads.

    Parameters
    ----------
    path
        Of the file.
    level
        Level of theory of the labels in a file that does not say it itself.
    judge
        Makes records of frames that come from no store, or None of those that
        are left out; by default they are taken as they are and the first one
        that cannot be is an error.

    Raises
    ------
    InputError
        A frame has no energy or forces, or nobody said of which level they are.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}.")
    if path.suffix == ".zip":
        yield from _from_archive(path)
    elif path.suffix in {".h5", ".hdf5"}:
        yield from open_existing(path)
    else:
        for frame, header, more in _from_file(path):
            if header is not None:
                yield _returned(frame, header, more)
            elif judge is None:
                yield _taken(frame, level)
            else:
                judged = judge(frame)
                if judged is not None:
                    yield judged


def _from_file(
    path: Path,
) -> Iterator[tuple[ForeignFrame, Mapping[str, Any] | None, Mapping[str, Any]]]:
    """Yield each frame with the header that a store gave it, and what else it carries."""
    if path.suffix in DATABASES:
        for number, row in enumerate(connect(path).select()):
            atoms = row.toatoms()
            atoms.info |= dict(row.key_value_pairs)
            data = dict(row.data)
            yield _foreign(atoms, f"{path.name}, row {row.id}", number), data.get(HEADER_KEY), data
    else:
        for number, atoms in enumerate(ase.io.iread(path, index=":")):
            header = atoms.info.pop(HEADER_KEY, None)
            frame = _foreign(atoms, f"{path.name}, frame {number}", number)
            yield frame, header if isinstance(header, dict) else None, {}


def _from_archive(path: Path) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        if STORE_NAME not in archive.namelist():
            raise InputError(f"{path} holds no {STORE_NAME}; it is no archive of a store.")
        archive.extract(STORE_NAME, folder)
        yield from open_existing(Path(folder) / STORE_NAME)


def _returned(frame: ForeignFrame, header: Mapping[str, Any], more: Mapping[str, Any]) -> Record:
    """Return the record of a frame that came from a store."""
    if frame.forces is None or frame.energy is None:
        raise InputError(f"{frame.place} has no energy or no forces.")
    atoms = frame.atoms
    arrays: dict[str, Any] = {
        "numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "forces": np.asarray(frame.forces, dtype=np.float64),
    }
    arrays |= {name: np.asarray(more[name]) for name in more if name.startswith("member_")}
    if frame.stress is not None:
        arrays["stress"] = np.asarray(frame.stress, dtype=np.float64)
    return Record.from_parts(header, arrays)


def _taken(frame: ForeignFrame, level: LevelOfTheory | None) -> Record:
    """Return the record of a frame taken as it is."""
    if frame.energy is None or frame.forces is None:
        raise InputError(
            f"{frame.place} has no energy or no forces (REF_energy, REF_forces, or results)."
        )
    forces = np.asarray(frame.forces, dtype=np.float64)
    if not (np.isfinite(frame.energy) and np.isfinite(forces).all()):
        raise InputError(f"{frame.place} has an energy or forces that are not finite.")
    if level is None:
        raise InputError(
            f"{frame.place}: the file does not say its level of theory; give it with --level or "
            "--method."
        )
    atoms = question_atoms(frame.atoms)
    check_structure(atoms)
    label = Label(
        energy=frame.energy, forces=forces, stress=frame.stress, level=level, rung="imported"
    )
    regime = str(frame.atoms.info.get("config_type", "imported"))
    meta = {"regime": regime, "source": frame.place, "run": "import"}
    return Record.of(atoms, level=level, label=label, meta=meta)


def question_atoms(atoms: Atoms) -> Atoms:
    """Return the geometry with charge and spin alone."""
    info = {key: atoms.info[key] for key in ("charge", "spin") if atoms.info.get(key) is not None}
    return Atoms(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell,
        pbc=atoms.pbc,
        info=info,
    )


def _foreign(atoms: Atoms, place: str, number: int) -> ForeignFrame:
    """Return what a frame says: energy, forces and stress wherever they stand."""
    info = dict(atoms.info)
    for key in ("charge", "spin"):
        info[key] = info.get(f"total_{key}", info.get(key))
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    energy = info.get("REF_energy", results.get("energy"))
    forces = atoms.arrays.get("REF_forces", results.get("forces"))
    stress = info.get("REF_stress", results.get("stress"))
    bare = atoms.copy()
    bare.info = info
    return ForeignFrame(
        atoms=bare,
        energy=None if energy is None else float(energy),
        forces=forces,
        stress=None if stress is None else np.asarray(stress, dtype=np.float64),
        place=place,
        number=number,
    )
