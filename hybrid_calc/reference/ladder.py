"""The SCF ladder: what is tried, in order, until a converged and sensible state is found.

Runs inside the PySCF worker.  PySCF reports numbers from unconverged SCFs
without a word, and its second-order solver can land on a state that is not
the ground state, so convergence and the order of orbitals are looked at here;
`hybrid_calc.reference.stability` asks whether the state is a minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import Hartree

LEVEL_SHIFT_HARTREE = 0.3
DAMPING = 0.4
SMEARING_HARTREE = 0.02
LONG_CYCLES = 150

WARM, FIRST = "warm", "diis"
"""Names of the first rung where a density is there, and where none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScfOutcome:
    """The state one rung ended in, or why the ladder ended without one.

    Attributes
    ----------
    field
        The mean field as PySCF left it (its gradient can be taken), or None.
    rung
        Name of the rung that converged, empty where none did.
    history
        One sentence per rung tried.
    cycles
        SCF cycles over all rungs.
    gap_ev
        Lowest empty minus highest occupied orbital energy, eV.
    s_squared
        <S^2> of the state.
    """

    field: Any
    rung: str
    history: tuple[str, ...]
    cycles: int
    gap_ev: float
    s_squared: float


def climb(
    make_field: Callable[[], Any], guess: Any = None, rungs: Sequence[str] | None = None
) -> ScfOutcome:
    """Try rung after rung until one converges to an aufbau state.

    Parameters
    ----------
    make_field
        Builds a fresh PySCF mean field of the level asked for.
    guess
        Density of a geometry nearby, for a first rung ``warm``.
    rungs
        Names of `RUNGS` to try; None for all.
    """
    ladder = {name: run for name, run in RUNGS.items() if rungs is None or name in rungs}
    if guess is not None:
        ladder = {WARM: lambda field: _from_density(field, guess), **ladder}
    history: list[str] = []
    cycles = 0
    for name, run in ladder.items():
        try:
            field = run(make_field())
        except (ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            history.append(f"{name}: {type(error).__name__}: {error}")
            continue
        cycles += int(getattr(field, "cycles", 0) or 0)
        complaint = complaint_about(field)
        if complaint:
            history.append(f"{name}: {complaint}")
            continue
        return outcome_of(field, rung=name, history=tuple(history), cycles=cycles)
    return ScfOutcome(
        field=None, rung="", history=tuple(history), cycles=cycles, gap_ev=0.0, s_squared=0.0
    )


def outcome_of(field: Any, *, rung: str, history: tuple[str, ...], cycles: int) -> ScfOutcome:
    """Return a converged state with its gap and spin."""
    return ScfOutcome(
        field=field,
        rung=rung,
        history=history,
        cycles=cycles,
        gap_ev=aufbau_gap_ev(field),
        s_squared=_s_squared(field),
    )


def complaint_about(field: Any) -> str:
    """Return what is wrong with the end of an SCF; empty where it converged to aufbau."""
    if not field.converged:
        return f"not converged after {field.max_cycle} cycles"
    gap = aufbau_gap_ev(field)
    return "" if gap > 0 else f"converged to a state with gap {gap:.2f} eV"


def aufbau_gap_ev(field: Any) -> float:
    """Return lowest empty minus highest occupied orbital energy, eV.

    The smaller one of both spins, over all k-points of a crystal; infinite
    where a spin has no empty or no occupied orbital (the hydrogen atom in a
    minimal basis).
    """
    spins = 1 if is_restricted(field) else 2
    energies = np.asarray(field.mo_energy).reshape(spins, -1)
    occupations = np.asarray(field.mo_occ).reshape(spins, -1)
    gaps = []
    for levels, filled in zip(energies, occupations > 0, strict=True):
        if filled.any() and not filled.all():
            gaps.append(float(levels[~filled].min() - levels[filled].max()) * Hartree)
    return min(gaps, default=float("inf"))


def _from_density(field: Any, density: Any) -> Any:
    field.kernel(dm0=density)
    return field


def _diis(field: Any) -> Any:
    field.kernel()
    return field


def _other_guess(field: Any) -> Any:
    """Start from a Hueckel guess instead of PySCF's projected minimal basis."""
    field.init_guess = "huckel"
    field.kernel()
    return field


def _level_shift(field: Any) -> Any:
    """Shift and damp to a state, then converge that state without help."""
    field.level_shift = LEVEL_SHIFT_HARTREE
    field.damp = DAMPING
    field.diis_start_cycle = 8  # PySCF damps only before DIIS starts
    field.max_cycle = LONG_CYCLES
    field.kernel()
    density = field.make_rdm1()
    field.level_shift = 0.0
    field.damp = 0.0
    field.diis_start_cycle = 1
    field.kernel(dm0=density)
    return field


def _second_order(field: Any) -> Any:
    """Take some shifted cycles, then Newton steps from there."""
    field.level_shift = LEVEL_SHIFT_HARTREE
    field.max_cycle = 20
    field.kernel()
    orbitals, occupations = field.mo_coeff, field.mo_occ
    field.level_shift = 0.0
    newton = field.newton()
    newton.max_cycle = 50
    newton.kernel(orbitals, occupations)
    field.converged = newton.converged
    for name in ("mo_coeff", "mo_occ", "mo_energy", "e_tot"):
        setattr(field, name, getattr(newton, name))
    return field


def _smearing(field: Any) -> Any:
    """Take the density of fractional occupations as a guess, never as an answer."""
    from pyscf.scf.addons import smearing

    smeared = smearing(field, sigma=SMEARING_HARTREE, method="fermi")
    smeared.max_cycle = LONG_CYCLES
    smeared.kernel()
    field.max_cycle = LONG_CYCLES
    field.kernel(dm0=np.asarray(smeared.make_rdm1()))
    return field


RUNGS: dict[str, Callable[[Any], Any]] = {
    FIRST: _diis,
    "other_guess": _other_guess,
    "level_shift": _level_shift,
    "second_order": _second_order,
    "smearing": _smearing,
}


RUNGS_WITHOUT_NEWTON = (FIRST, "level_shift")
"""For mean fields that PySCF's second-order solver and Hueckel guess do not take."""


def is_restricted(field: Any) -> bool:
    """Tell whether both spins share their orbitals."""
    each = 2 if hasattr(field, "kpts") else 1  # a crystal's have an axis of k-points
    return np.ndim(field.mo_occ) == each


def _s_squared(field: Any) -> float:
    if is_restricted(field):
        return 0.0
    value, _ = field.spin_square()
    return float(value)
