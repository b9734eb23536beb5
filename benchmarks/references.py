"""References the benchmarks ask, each counting its calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms

from hybrid_calc.errors import ReferenceNotConverged
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory

GFN2 = LevelOfTheory(program="ase:tblite", parameters={"method": "GFN2-xTB", "accuracy": 0.01})


class Counted:
    """A reference that counts."""

    def __init__(self, ask: Callable[[Atoms], Label]) -> None:
        self.ask = ask
        self.calls = 0

    def __call__(self, atoms: Atoms, _reason: str = "") -> Label:
        self.calls += 1
        return self.ask(atoms)


def xtb_reference() -> Counted:
    """GFN2-xTB through tblite, converged a hundred times tighter than its default."""
    from tblite.ase import TBLite

    def ask(atoms: Atoms) -> Label:
        frame = atoms.copy()
        frame.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
        try:
            energy, forces = float(frame.get_potential_energy()), np.array(frame.get_forces())
        except Exception as error:
            raise ReferenceNotConverged(f"GFN2-xTB gave no answer: {error}") from error
        return Label(energy=energy, forces=forces, level=GFN2)

    return Counted(ask)


def dft_reference() -> Counted:
    """Real DFT at ANI-1x's own level, wB97X/6-31G(d) with Cartesian d functions."""
    from hybrid_calc.reference.pyscf_backend import PySCFReference

    reference = PySCFReference()
    return Counted(reference.label)
