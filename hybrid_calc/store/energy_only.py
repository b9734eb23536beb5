"""Energies without forces: kept in a store beside its labels, never among them.

A label is an energy and its forces.  An energy alone can be compared with and
trained on with a weight of its own, but answers nothing, validates nothing, and
is in no query for validated frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ase import Atoms

from hybrid_calc.store.record import Record

ENERGY_ONLY = "energy only"
"""How the rejection of such a record begins."""


def is_energy_only(record: Record) -> bool:
    """Tell whether a record is an energy without forces."""
    return record.label is None and record.rejection.startswith(ENERGY_ONLY)


def energy_frames(records: Iterable[Record]) -> Iterator[Atoms]:
    """Yield the energy-only records as training frames without forces.

    ``REF_energy`` (eV), ``config_forces_weight`` 0, ``config_type``,
    ``total_charge`` and ``total_spin`` (2S+1), as ``mace_run_train`` reads them.
    """
    for record in records:
        if not is_energy_only(record):
            continue
        atoms = record.atoms()
        atoms.info = {
            "REF_energy": float(record.meta["energy"]),
            "config_type": str(record.meta.get("regime") or "unknown").partition(" ")[0],
            "config_forces_weight": 0.0,
            "total_charge": record.charge,
            "total_spin": record.multiplicity,
            "level": record.level.hash,
            "frame": record.identity,
        }
        yield atoms
