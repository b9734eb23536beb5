"""``ase.io.read("run.h5@:")``: the validated frames of a store, as ASE reads any file.

ASE finds `FORMAT` through the entry point group ``ase.ioformats``; from then
on ``ase.io.read``, ``iread`` and ``ase gui run.h5`` open stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.utils.plugins import ExternalIOFormat

from hybrid_calc.store.frames import open_existing
from hybrid_calc.store.query import Query, matching
from hybrid_calc.store.record import Record

FORMAT = ExternalIOFormat(
    desc="hybrid_calc store of validated frames",
    code="+S",
    module="hybrid_calc.store.ase_io",
    ext=["h5", "hdf5"],
)


def ase_frame(record: Record) -> Atoms:
    """Return a frame with its label as results.

    ``info`` has charge, spin (2S+1), regime, run, step, the level's hash and
    the frame's content hash.
    """
    atoms = record.atoms()
    keys = ("regime", "run", "step", "force_error")
    atoms.info |= {key: record.meta[key] for key in keys if record.meta.get(key) is not None}
    atoms.info |= {"level": record.level.hash, "frame": record.identity}
    if record.label is not None:
        results = {"energy": record.label.energy, "forces": record.label.forces}
        if record.label.stress is not None:
            results["stress"] = record.label.stress
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def read_hybrid_calc(filename: str, index: int | slice = -1) -> Iterator[Atoms]:
    """Yield validated frames of a store; only those asked for are read.

    Parameters
    ----------
    filename
        Of the HDF5 file; frames in its journals are read too.
    index
        Which, counting validated frames only.
    """
    store = open_existing(Path(filename))
    places = np.flatnonzero(matching(store.columns(), Query(labelled=True)))
    chosen = places[index] if isinstance(index, slice) else places[[index]]
    if len(chosen) < 2 or chosen[0] < chosen[1]:
        for _, record in store.at(chosen):
            yield ase_frame(record)
        return
    found = dict(store.at(np.sort(chosen)))  # backwards
    for place in chosen.tolist():
        if place in found:
            yield ase_frame(found[place])
