"""The store's frames in the form that MACE training reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ase.io
from ase import Atoms

from hybrid_calc.errors import InputError
from hybrid_calc.store.record import Record


def training_frame(record: Record) -> Atoms:
    """Return a validated frame with the keys ``mace_run_train`` looks for.

    ``REF_energy`` (eV), ``REF_forces`` (eV/A), ``REF_stress`` where there is
    one, ``config_type`` (the regime), ``total_charge`` and ``total_spin``
    (2S+1).

    Raises
    ------
    InputError
        The frame was rejected; a rejected frame is never trained on.
    """
    if record.label is None:
        raise InputError(f"frame {record.identity} was rejected: {record.rejection}")
    atoms = record.atoms()
    atoms.info = {
        "REF_energy": record.label.energy,
        "config_type": str(record.meta.get("regime") or "unknown").split()[0],
        "total_charge": record.charge,
        "total_spin": record.multiplicity,
        "level": record.level.hash,
        "frame": record.identity,
    }
    if record.label.stress is not None:
        atoms.info["REF_stress"] = record.label.stress
    atoms.arrays["REF_forces"] = record.label.forces
    return atoms


def export_extxyz(records: Iterable[Record], path: Path) -> int:
    """Write the validated frames as extended XYZ; return how many.

    Raises
    ------
    InputError
        There is no validated frame.
    """
    frames = [training_frame(record) for record in records if record.label is not None]
    if not frames:
        raise InputError("the store holds no validated frame to export.")
    ase.io.write(path, frames, format="extxyz")
    return len(frames)
