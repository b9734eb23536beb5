"""The same small jobs for a plain ASE calculator and for HybridCalculator."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from hybrid_calc import AseReference, GateSettings, HybridCalculator, MembersCommittee
from tests.scripted import settings


def water() -> Atoms:
    """A stretched water molecule in motion."""
    atoms = molecule("H2O")
    atoms.positions[1] *= 1.05
    atoms.set_momenta(np.random.default_rng(0).normal(0, 0.6, (3, 3)))
    return atoms


def still_water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


def hop(*, there: bool = False) -> Atoms:
    """An atom in a hollow of Al(100), or in the next one; the lowest layer is fixed."""
    slab = fcc100("Al", (2, 2, 2), vacuum=6)
    add_adsorbate(slab, "Au", 1.7, "hollow")
    if there:
        slab.positions[-1, 0] += slab.cell[0, 0] / 2
    slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < slab.positions[:, 2].min() + 0.5))
    return slab


def hybrid_emt(gate: GateSettings | None = None) -> HybridCalculator:
    """Two EMT members: their mean is EMT's answer to the last bit."""
    return HybridCalculator(
        MembersCommittee([EMT(), EMT()]), AseReference(EMT()), gate or settings()
    )


TIME_STEP = 0.5 * units.fs
