"""Refine a transition state on the reference itself, every force call a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate
from ase.optimize.optimize import Optimizer
from numpy.typing import NDArray

from hybrid_calc.correction.surface import SurfaceLabel
from hybrid_calc.drivers.labelling import LabelBook, ReferenceCalculator, max_force
from hybrid_calc.drivers.shape import free_directions
from hybrid_calc.errors import MissingPackageError

POLISH = "polish"

DIMER_ANG = 0.01
"""Half the length of the dimer, and its trial steps, A: ASE's 1e-4 drowns in DFT's noise."""

MAX_STEP_ANG = 0.1
"""Longest step, A."""

PolishMethod = Literal["dimer", "sella"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polish:
    """What refining a transition state came to.

    Attributes
    ----------
    method
        ``dimer`` or ``sella``.
    label
        The refined transition state, N atoms.
    fmax
        The reference's largest force there, eV/A.
    converged
        Whether that is under the target.
    labels
        Reference calls it took.
    moved_ang
        Largest distance an atom moved, A.
    energy_change
        Its energy above the unrefined one's, eV.
    """

    method: PolishMethod
    label: SurfaceLabel
    fmax: float
    converged: bool
    labels: int
    moved_ang: float
    energy_change: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data."""
        return {
            "method": self.method,
            "converged": self.converged,
            "fmax_ev_per_ang": self.fmax,
            "labels": self.labels,
            "moved_ang": self.moved_ang,
            "energy_change_ev": self.energy_change,
        }


def require_sella() -> None:
    """Refuse early where Sella is not installed.

    Raises
    ------
    MissingPackageError
        It is not.
    """
    try:
        import sella  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            'neb.polish: sella needs Sella: pip install "hybrid_calc[sella]"; '
            "neb.polish: dimer needs nothing more."
        ) from error


def polish_on_reference(
    book: LabelBook,
    start: SurfaceLabel,
    hessian: NDArray[np.float64],
    *,
    method: PolishMethod,
    fmax: float,
    max_labels: int,
    record: Callable[[], None],
) -> Polish:
    """Walk from a labelled transition state to the reference's own.

    One whose force is under the target already costs nothing.  The same start and Hessian
    give the same walk, so that one that was killed repeats its steps, whose labels are
    known, and goes on.

    Parameters
    ----------
    book
        Labels of the molecule; asked for every force.
    start
        The transition state so far.
    hessian
        Of the surface there, eV/A^2, shape (3N, 3N).
    method
        ASE's dimer, started along the lowest mode, or Sella's P-RFO, started from the Hessian.
    fmax
        Largest force to reach, eV/A.
    max_labels
        New geometries after which it gives up.
    record
        Called after every step.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels.
    """
    frame = book.template.copy()
    frame.set_positions(start.positions, apply_constraint=False)
    calculator = _CountingReference(book, f"{POLISH}: {method}")
    frame.calc = calculator
    make = _dimer if method == "dimer" else _sella
    best = start
    steps = max_labels if max_force(book.template, start) > fmax else 0
    for _ in make(frame, hessian).irun(fmax=0.0, steps=steps) if steps else ():
        label = book.find(frame.positions)
        if label is not None and max_force(book.template, label) < max_force(book.template, best):
            best = label
        record()
        if max_force(book.template, best) <= fmax or calculator.geometries > max_labels:
            break
    force = max_force(book.template, best)
    return Polish(
        method=method,
        label=best,
        fmax=force,
        converged=force <= fmax,
        labels=book.reasons.count(calculator.reason),  # those before a kill, too
        moved_ang=float(np.linalg.norm(best.positions - start.positions, axis=1).max()),
        energy_change=best.energy - start.energy,
    )


class _CountingReference(ReferenceCalculator):
    """The reference, which counts the different geometries one walk asks about."""

    def __init__(self, book: LabelBook, reason: str) -> None:
        super().__init__(book, reason)
        self._seen: set[int] = set()

    @property
    def geometries(self) -> int:
        """Different geometries, those whose labels were known included."""
        return len(self._seen)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill energy and forces; see ASE's Calculator."""
        super().calculate(atoms, properties, system_changes)
        self._seen.add(id(self.book.find(np.array(self.atoms.positions))))  # type: ignore[union-attr]


def _lowest_mode(frame: Atoms, hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    basis = free_directions(frame, frame.positions)
    _, vectors = np.linalg.eigh(basis.T @ hessian @ basis)
    return np.asarray((basis @ vectors[:, 0]).reshape(-1, 3))


def _dimer(frame: Atoms, hessian: NDArray[np.float64]) -> Optimizer:
    control = DimerControl(
        logfile=None,
        eigenmode_logfile=None,
        dimer_separation=DIMER_ANG,
        trial_trans_step=DIMER_ANG,
        maximum_translation=MAX_STEP_ANG,
    )
    mode = _lowest_mode(frame, hessian)
    dimer = MinModeAtoms(frame, control, eigenmodes=[mode], random_seed=0)
    return MinModeTranslate(dimer, logfile=None)


def _sella(frame: Atoms, hessian: NDArray[np.float64]) -> Optimizer:
    require_sella()
    from sella import Sella

    return Sella(
        frame,
        order=1,
        internal=False,
        logfile=None,  # type: ignore[arg-type]  # its annotation says str only
        hessian_function=lambda _: hessian.copy(),
    )
