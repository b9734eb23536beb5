"""The store's frames in the forms that others read: MACE training, ASE's database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ase.io
import h5py
from ase import Atoms
from ase.db import connect

from hybrid_calc.errors import InputError
from hybrid_calc.store.ase_io import ase_frame
from hybrid_calc.store.block import batch_by
from hybrid_calc.store.energy_only import energy_frames
from hybrid_calc.store.record import Record

HEADER_KEY = "hybrid_calc"
"""Under which level, checks and provenance travel, so that a file can be imported again."""
FRAMES_AT_ONCE = 500


def training_frame(record: Record, weights: Mapping[str, float] | None = None) -> Atoms:
    """Return a validated frame with the keys ``mace_run_train`` looks for.

    ``REF_energy`` (eV), ``REF_forces`` (eV/A), ``REF_stress`` where there is
    one, ``config_type`` (the regime's first word), ``config_weight``,
    ``total_charge`` and ``total_spin`` (2S+1); level, checks and provenance
    under ``hybrid_calc``.

    Parameters
    ----------
    record
        With a label.
    weights
        Weight of a frame in the loss by ``config_type``; 1 where not given.

    Raises
    ------
    InputError
        The frame was rejected; a rejected frame is never trained on.
    """
    if record.label is None:
        raise InputError(f"frame {record.identity} was rejected: {record.rejection}")
    atoms = record.atoms()
    kind = config_type(record)
    atoms.info = {
        "REF_energy": record.label.energy,
        "config_type": kind,
        "config_weight": float((weights or {}).get(kind, 1.0)),
        "total_charge": record.charge,
        "total_spin": record.multiplicity,
        "level": record.level.hash,
        "frame": record.identity,
        HEADER_KEY: record.header(),
    }
    if record.label.stress is not None:
        atoms.info["REF_stress"] = record.label.stress
    atoms.arrays["REF_forces"] = record.label.forces
    return atoms


def export_extxyz(
    records: Iterable[Record], path: Path, weights: Mapping[str, float] | None = None
) -> int:
    """Write the validated frames as extended XYZ; return how many.

    Raises
    ------
    InputError
        There is no validated frame.
    """
    frames = 0
    for batch in batch_by(_validated(records), FRAMES_AT_ONCE):
        images = [training_frame(record, weights) for record in batch]
        ase.io.write(path, images, format="extxyz", append=frames > 0)
        frames += len(batch)
    return _some(frames)


def export_energies(records: Iterable[Record], path: Path) -> int:
    """Write energies without forces as extended XYZ; return how many frames.

    Raises
    ------
    InputError
        There is none.
    """
    frames = 0
    for batch in batch_by(energy_frames(records), FRAMES_AT_ONCE):
        ase.io.write(path, list(batch), format="extxyz", append=frames > 0)
        frames += len(batch)
    if not frames:
        raise InputError("no frame is an energy without forces.")
    return frames


def export_mace_hdf5(
    records: Iterable[Record],
    folder: Path,
    weights: Mapping[str, float] | None = None,
    *,
    frames_per_shard: int = 1000,
) -> int:
    """Write MACE's own HDF5 shards, ``train_0.h5`` and so on; return how many frames.

    ``mace_run_train --train_file FOLDER`` reads them from disk while it
    trains; it needs ``--atomic_numbers`` and ``--E0s`` beside.

    Raises
    ------
    InputError
        There is no validated frame, or the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; MACE would read everything in it.")
    frames = 0
    for number, batch in enumerate(batch_by(_validated(records), frames_per_shard)):
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / f"train_{number}.h5", "w") as file:
            file.attrs["drop_last"] = False
            group = file.create_group("config_batch_0")
            for index, record in enumerate(batch):
                _mace_configuration(group.create_group(f"config_{index}"), record, weights or {})
        frames += len(batch)
    return _some(frames)


def export_db(records: Iterable[Record], path: Path) -> int:
    """Write an ASE database, to the bit; return how many frames.

    Energy, forces and stress are the row's own; regime, run, step, level and
    frame are keys to select on; level, checks, provenance and what the
    members said are in ``data``.

    Raises
    ------
    InputError
        There is no validated frame, or the file is there already.
    """
    if path.exists():
        raise InputError(f"{path} is there already; give another name.")
    frames = 0
    for batch in batch_by(_validated(records), FRAMES_AT_ONCE):
        with connect(path) as database:
            for record in batch:
                _write_row(database, record)
        frames += len(batch)
    return _some(frames)


def config_type(record: Record) -> str:
    """Return the first word of the regime."""
    return (str(record.meta.get("regime") or "").split() or ["unknown"])[0]


def _validated(records: Iterable[Record]) -> Iterable[Record]:
    return (record for record in records if record.label is not None)


def _some(frames: int) -> int:
    if not frames:
        raise InputError("the store holds no validated frame to export.")
    return frames


def _mace_configuration(group: h5py.Group, record: Record, weights: Mapping[str, float]) -> None:
    """Write one frame as ``mace.data.save_configurations_as_HDF5`` does."""
    atoms = training_frame(record, weights)
    group["atomic_numbers"] = atoms.numbers
    group["positions"] = atoms.positions
    group["cell"] = atoms.cell.array
    group["pbc"] = atoms.pbc
    group["weight"] = atoms.info["config_weight"]
    group["config_type"] = atoms.info["config_type"]
    properties = {
        "energy": atoms.info["REF_energy"],
        "forces": atoms.arrays["REF_forces"],
        "stress": atoms.info.get("REF_stress"),
        "total_charge": atoms.info["total_charge"],
        "total_spin": atoms.info["total_spin"],
    }
    values, importance = group.create_group("properties"), group.create_group("property_weights")
    for name, value in properties.items():
        values[name] = "None" if value is None else value
        importance[name] = 0.0 if value is None else 1.0


def _write_row(database: Any, record: Record) -> None:
    atoms = ase_frame(record)
    keys = {
        "regime": config_type(record),
        "run": str(record.meta.get("run") or "unknown"),
        "level": record.level.hash,
        "frame": record.identity,
    }
    data: dict[str, Any] = {HEADER_KEY: record.header()}
    data |= {name: a for name, a in record.arrays().items() if name.startswith("member_")}
    pairs = {name: word if _is_word(word) else f"{word} " for name, word in keys.items()}
    database.write(atoms, key_value_pairs=pairs, data=data)


def _is_word(text: str) -> bool:
    """Tell whether ASE's database takes a text for a text, not for a number."""
    try:
        float(text)
    except ValueError:
        return text.lower() not in {"true", "false"}
    return False
