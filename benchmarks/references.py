"""References the benchmarks ask, each counting its calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms

from hybrid_calc.errors import ReferenceNotConverged
from hybrid_calc.reference.label import Label
from hybrid_calc.reference.level import LevelOfTheory
from hybrid_calc.store.frames import FrameStore
from hybrid_calc.store.record import Record

GFN2 = LevelOfTheory(program="ase:tblite", parameters={"method": "GFN2-xTB", "accuracy": 0.01})


class Counted:
    """A reference that counts; what a store holds already counts, but costs nothing.

    Parameters
    ----------
    ask
        The reference.
    level
        Of its labels.
    cache
        A store of labels from before, kept up to date; None keeps nothing.
    """

    def __init__(
        self, ask: Callable[[Atoms], Label], level: LevelOfTheory, cache: FrameStore | None = None
    ) -> None:
        self.ask = ask
        self.level = level
        self.cache = cache
        self.calls = 0
        self.solved = 0
        self.seconds = 0.0

    def __call__(self, atoms: Atoms, _reason: str = "") -> Label:
        self.calls += 1
        known = None if self.cache is None else self.cache.find_label(atoms, self.level)
        if known is not None:
            return known
        label = self.ask(atoms)
        self.solved += 1
        self.seconds += label.wall_seconds
        if self.cache is not None:
            self.cache.append(Record.of(atoms, level=self.level, label=label))
        return label


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

    return Counted(ask, GFN2)


def dft_reference(cache: Path | None = None, *, warm_start: bool = False) -> Counted:
    """Real DFT at ANI-1x's own level, wB97X/6-31G(d) with Cartesian d functions.

    Restricted throughout, as ANI-1x's labels are: barriers of one closed-shell surface.

    Parameters
    ----------
    cache
        File of a store; a benchmark that is started again asks nothing twice.
    warm_start
        Faster labels that depend on those before, within the SCF's convergence.
    """
    from hybrid_calc.reference.pyscf_backend import PySCFReference

    reference = PySCFReference(warm_start=warm_start, stability="never")
    store = None if cache is None else FrameStore(cache)
    return Counted(reference.label, reference.level, store)
