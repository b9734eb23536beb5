"""A walk to a saddle on the reference itself, one label a step, where no surface leads there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.correction.surface import Surface, SurfaceLabel
from hybrid_calc.drivers.labelling import LabelBook
from hybrid_calc.drivers.shape import free_directions
from hybrid_calc.errors import ReferenceFailed

MAX_STEP_ANG = 0.1
"""Longest displacement of an atom in one step towards a saddle, A."""

HESSIAN_STEP_ANG = 0.02
"""Finite-difference step, A."""


def labelled_hessian(
    book: LabelBook, label: SurfaceLabel, reason: str, *, central: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the reference's Hessian, eV/A^2, (3N, 3N), and unit modes (f, N, 3), softest first.

    Parameters
    ----------
    book
        Labels of the molecule.
    label
        Where.
    reason
        For the record.
    central
        Whether a label is asked on both sides in every direction that is free, or on one.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels.
    """
    basis = free_directions(book.template, label.positions)
    columns = []
    for direction in basis.T.reshape(-1, *label.positions.shape):
        step = HESSIAN_STEP_ANG * direction
        one = book.ask(label.positions + step, reason)
        other = book.ask(label.positions - step, reason) if central else label
        length = HESSIAN_STEP_ANG * (2 if central else 1)
        columns.append((other.forces - one.forces).ravel() / length)
    inner = basis.T @ np.array(columns).T
    inner = 0.5 * (inner + inner.T)
    _, vectors = np.linalg.eigh(inner)
    return basis @ inner @ basis.T, (basis @ vectors).T.reshape(-1, *label.positions.shape)


def curvature_along(
    book: LabelBook,
    label: SurfaceLabel,
    mode: NDArray[np.float64],
    reason: str,
    *,
    step: float,
    surface: Surface | None = None,
) -> float:
    """Return the reference's curvature along a mode (N, 3), eV/A^2, for one label.

    Where the reference refuses it on one side of `label` the other one is asked; its atom
    that moves farthest moves by `step`, A.  A `surface` forecasts it.

    Raises
    ------
    ReferenceFailed, BudgetExhausted, RunInterrupted
        No more labels.
    """
    aside = step * mode / np.linalg.norm(mode, axis=1).max()
    try:
        probe = book.ask(label.positions + aside, reason, surface)
    except ReferenceFailed:
        aside = -aside
        probe = book.ask(label.positions + aside, reason, surface)
    return float(-np.sum((probe.forces - label.forces) * aside) / np.sum(aside**2))


def next_uphill(
    template: Atoms,
    labels: Sequence[SurfaceLabel],
    hessian: NDArray[np.float64],
    *,
    max_step: float = MAX_STEP_ANG,
) -> NDArray[np.float64]:
    """Return where a walk goes on: uphill along its softest mode, downhill along all others.

    Rational function optimisation partitioned between that mode and the others (Banerjee et
    al., J. Phys. Chem. 89, 52, 1985); the Hessian learns from every label (Bofill, J. Comput.
    Chem. 15, 1, 1994).

    Parameters
    ----------
    template
        The molecule with its constraints, N atoms.
    labels
        Of the walk so far, the last one where it stands.
    hessian
        At the first of them, eV/A^2, shape (3N, 3N).
    max_step
        Longest displacement of an atom, A.

    Returns
    -------
    Positions, shape (N, 3), A.
    """
    for one, two in pairwise(labels):
        step = (two.positions - one.positions).ravel()
        hessian = bofill_update(hessian, step, (one.forces - two.forces).ravel())
    here = labels[-1]
    basis = free_directions(template, here.positions)
    values, vectors = np.linalg.eigh(basis.T @ hessian @ basis)
    slope = -vectors.T @ (basis.T @ here.forces.ravel())
    up = _rational_step(values[:1], slope[:1], sign=1.0)
    down = _rational_step(values[1:], slope[1:], sign=-1.0)
    step = (basis @ (vectors @ np.concatenate([up, down]))).reshape(-1, 3)
    longest = float(np.linalg.norm(step, axis=1).max())
    return np.asarray(here.positions + step * min(1.0, max_step / max(longest, 1e-12)))


def _rational_step(
    values: NDArray[np.float64], slope: NDArray[np.float64], *, sign: float
) -> NDArray[np.float64]:
    """Return the step that maximises (sign 1) or minimises (-1) the rational model, A."""
    size = len(values)
    model = np.zeros((size + 1, size + 1))
    model[:size, :size] = np.diag(values)
    model[size, :size] = model[:size, size] = slope
    shifts = np.linalg.eigvalsh(model)
    shift = shifts[-1] if sign > 0 else shifts[0]
    return np.asarray(
        -slope / np.where(np.abs(values - shift) < 1e-9, -sign * 1e-9, values - shift)
    )


def bofill_update(
    hessian: NDArray[np.float64], step: NDArray[np.float64], change: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Hessian after a step (3N,), A, that changed the gradient, eV/A, by so much."""
    miss = change - hessian @ step
    along = float(miss @ step)
    squares = float(miss @ miss), float(step @ step)
    if min(squares) < 1e-12:
        return hessian
    powell = (np.outer(miss, step) + np.outer(step, miss)) / squares[1]
    powell -= along * np.outer(step, step) / squares[1] ** 2
    overlap = along**2 / (squares[0] * squares[1])
    murtagh_sargent = np.outer(miss, miss) / along if abs(along) > 1e-12 else 0.0 * powell
    return np.asarray(hessian + overlap * murtagh_sargent + (1 - overlap) * powell)
