"""Frames from files: what was exported comes back with level, checks and provenance."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
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


def read_frames(path: Path, level: LevelOfTheory | None = None) -> Iterator[Record]:
    """Yield the frames of an archive, an ASE database, a store, or anything ``ase.io`` reads.

    Parameters
    ----------
    path
        Of the file.
    level
        Level of theory of the labels in a file that does not say it itself.

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
    elif path.suffix in DATABASES:
        for row in connect(path).select():
            yield _record(row.toatoms(), dict(row.data), level, f"{path.name}, row {row.id}")
    else:
        for number, atoms in enumerate(ase.io.iread(path, index=":")):
            header = atoms.info.pop(HEADER_KEY, None)
            data = {HEADER_KEY: header} if isinstance(header, dict) else {}
            yield _record(atoms, data, level, f"{path.name}, frame {number}")


def _from_archive(path: Path) -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        if STORE_NAME not in archive.namelist():
            raise InputError(f"{path} holds no {STORE_NAME}; it is no archive of a store.")
        archive.extract(STORE_NAME, folder)
        yield from open_existing(Path(folder) / STORE_NAME)


def _record(
    atoms: Atoms, data: Mapping[str, Any], level: LevelOfTheory | None, place: str
) -> Record:
    """Return the record of a frame of a file, with the header it carries or as a new one."""
    energy, forces, stress = _results(atoms, place)
    header = data.get(HEADER_KEY)
    if header is None:
        return _foreign(atoms, (energy, forces, stress), level, place)
    arrays: dict[str, Any] = {
        "numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "forces": forces,
    }
    arrays |= {name: np.asarray(data[name]) for name in data if name.startswith("member_")}
    if stress is not None:
        arrays["stress"] = stress
    return Record.from_parts(header, arrays)


def _foreign(
    atoms: Atoms, results: tuple[float, Any, Any], level: LevelOfTheory | None, place: str
) -> Record:
    energy, forces, stress = results
    if level is None:
        raise InputError(
            f"{place}: the file does not say its level of theory; give it with --level."
        )
    info = atoms.info
    charge, spin = (info.get(f"total_{key}", info.get(key)) for key in ("charge", "spin"))
    atoms.info = {k: v for k, v in (("charge", charge), ("spin", spin)) if v is not None}
    check_structure(atoms)
    label = Label(energy=energy, forces=forces, stress=stress, level=level, rung="imported")
    meta = {"regime": str(info.get("config_type", "imported")), "source": place, "run": "import"}
    return Record.of(atoms, level=level, label=label, meta=meta)


def _results(atoms: Atoms, place: str) -> tuple[float, Any, Any]:
    """Return energy (eV), forces (eV/A) and stress (eV/A^3) or None, wherever they stand."""
    if "REF_energy" in atoms.info and "REF_forces" in atoms.arrays:
        stress = atoms.info.get("REF_stress")
        energy, forces = atoms.info["REF_energy"], atoms.arrays["REF_forces"]
    elif atoms.calc is not None:
        try:
            energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        except PropertyNotImplementedError as error:
            raise InputError(f"{place} has no energy or no forces.") from error
        stress = atoms.calc.results.get("stress")
    else:
        raise InputError(f"{place} has no energy or no forces (REF_energy, REF_forces).")
    forces = np.array(forces, dtype=np.float64)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise InputError(f"{place} has an energy or forces that are not finite.")
    return float(energy), forces, None if stress is None else np.array(stress, dtype=np.float64)
