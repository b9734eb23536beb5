"""Is this a first-order saddle, and what does it join? Asked of one frozen surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.optimize import FIRE
from numpy.typing import NDArray

from hybrid_calc.correction.posterior import functional_std
from hybrid_calc.correction.surface import (
    Surface,
    SurfaceCalculator,
    evaluate_surface,
)
from hybrid_calc.drivers.shape import distance_between, free_directions

HESSIAN_STEP_ANG = 0.01
"""Central-difference step of the Hessian, A."""

CLEARLY_NEGATIVE = 0.05
"""A mode whose curvature is above minus this is flat, not a reaction coordinate, eV/A^2."""

SOFTEST_CURVATURE = 0.2
"""Newton steps treat softer modes as this stiff, eV/A^2."""

PUSH_ANG = 0.15
"""How far the first mode is followed before walks downhill begin, A."""

DOWNHILL_STEPS = 500
"""Steps of a walk downhill on a surface."""

WALK_FMAX = 0.05
"""Largest force where such a walk ends, eV/A."""

Verdict = Literal["first order", "undecided", "higher order", "no saddle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saddle:
    """Curvatures at one geometry of N atoms.

    Attributes
    ----------
    positions
        Shape (N, 3), A.
    curvatures
        Eigenvalues of the Hessian without translation and rotation, eV/A^2, ascending.
    modes
        Unit eigenvectors of the two lowest, shape (2, N, 3).
    curvature_std
        Calibrated posterior std of these two curvatures, eV/A^2, shape (2,).
    verdict
        ``first order`` when exactly one is clearly negative and the second is
        positive by two standard deviations.
    """

    positions: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    modes: NDArray[np.float64]
    curvature_std: NDArray[np.float64]
    verdict: Verdict


def surface_hessian(surface: Surface, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Hessian by central differences of forces in one pass, eV/A^2, (3N, 3N)."""
    size = positions.size
    steps = HESSIAN_STEP_ANG * np.eye(size).reshape(size, *positions.shape)
    _, forces = evaluate_surface(surface, np.concatenate([positions + steps, positions - steps]))
    flat = forces.reshape(2, size, size)
    hessian = (flat[1] - flat[0]) / (2 * HESSIAN_STEP_ANG)
    return np.asarray(0.5 * (hessian + hessian.T))


def modes_at(
    template: Atoms, surface: Surface, positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return curvatures (f,), eV/A^2, ascending, and unit modes (f, N, 3)."""
    basis = free_directions(template, positions)
    values, vectors = np.linalg.eigh(basis.T @ surface_hessian(surface, positions) @ basis)
    return values, (basis @ vectors).T.reshape(-1, *positions.shape)


def polish_saddle(
    template: Atoms,
    surface: Surface,
    start: NDArray[np.float64],
    *,
    fmax: float = 0.01,
    steps: int = 15,
    max_step: float = 0.1,
    max_displacement: float = 0.6,
) -> tuple[NDArray[np.float64], bool]:
    """Walk uphill along the softest mode and downhill along all others.

    Returns
    -------
    tuple
        Positions (N, 3), A, and whether they are a stationary point of the surface
        within `max_displacement` (A) of the start; else where the walk left that region.
    """
    here = np.array(start)
    for _ in range(steps):
        force = evaluate_surface(surface, here[None])[1][0]
        values, modes = modes_at(template, surface, here)
        along = np.tensordot(modes, force, axes=2)
        if np.linalg.norm(np.tensordot(along, modes, axes=1), axis=1).max() < fmax:
            return here, True
        sign = np.ones(len(values))
        sign[0] = -1.0
        lengths = sign * along / np.maximum(np.abs(values), SOFTEST_CURVATURE)
        step = np.tensordot(lengths, modes, axes=1)
        longest = float(np.linalg.norm(step, axis=1).max())
        here = here + step * min(1.0, max_step / max(longest, 1e-12))
        moved = float(np.linalg.norm(here - start, axis=1).max())
        if moved > max_displacement:
            return start + (here - start) * (max_displacement / moved), False
    return here, False


def judge_saddle(
    template: Atoms, surface: Surface, positions: NDArray[np.float64], *, inflation: float
) -> Saddle:
    """Count the negative modes and say whether the posterior allows to.

    Parameters
    ----------
    template
        The molecule with its constraints.
    surface
        Frozen.
    positions
        A stationary point, shape (N, 3), A.
    inflation
        What the posterior std has to be multiplied by to be an error bar.
    """
    values, modes = modes_at(template, surface, positions)
    values = np.concatenate([values, np.full(max(0, 2 - len(values)), np.inf)])
    two = modes[:2]
    std = np.array([_curvature_std(surface, positions, mode) for mode in two])
    std = inflation * np.concatenate([std, np.zeros(2 - len(two))])
    verdict: Verdict = "undecided"
    if values[0] > -CLEARLY_NEGATIVE:
        verdict = "no saddle"
    elif values[1] > 2 * std[1] and values[0] < -2 * std[0]:
        verdict = "first order"
    elif values[1] < -max(2 * std[1], CLEARLY_NEGATIVE):
        verdict = "higher order"
    return Saddle(
        positions=positions, curvatures=values, modes=two, curvature_std=std, verdict=verdict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """A walk downhill.

    Attributes
    ----------
    walked
        Geometries it went over, the last one where it ended, shape (k, N, 3), A.
    unsure
        Whether it was cut, too far from labels to go on.
    """

    walked: NDArray[np.float64]
    unsure: bool

    @property
    def positions(self) -> NDArray[np.float64]:
        """Where it ended, shape (N, 3), A."""
        return np.asarray(self.walked[-1])

    def spread(self, count: int) -> NDArray[np.float64]:
        """Return geometries at equal distances between saddle and end, (count, N, 3), A."""
        steps = np.linalg.norm(np.diff(self.walked, axis=0), axis=(1, 2))
        along = np.concatenate([[0.0], np.cumsum(steps)])
        wanted = along[-1] * np.arange(1, count + 1) / (count + 1)
        columns = self.walked.reshape(len(along), -1).T
        between = np.array([np.interp(wanted, along, column) for column in columns]).T
        return between.reshape(count, *self.walked.shape[1:])


def pushed(saddle: Saddle) -> list[NDArray[np.float64]]:
    """Return the starts (N, 3), A, of the ways downhill to both sides."""
    direction = saddle.modes[0] / np.linalg.norm(saddle.modes[0], axis=1).max()
    return [saddle.positions + sign * PUSH_ANG * direction for sign in (1.0, -1.0)]


def descend(
    template: Atoms,
    surface: Surface,
    start: NDArray[np.float64],
    known: Sequence[NDArray[np.float64]] = (),
    *,
    reach: float = np.inf,
    fmax: float = WALK_FMAX,
) -> Descent:
    """Walk downhill on the surface.

    It follows the forces: steps by curvature were seen to leave the way a saddle leads down,
    and to leap over a shallow minimum.

    Parameters
    ----------
    template
        The molecule with its constraints.
    surface
        Frozen.
    start
        Shape (N, 3), A.
    known
        Labelled geometries (N, 3), A.
    reach
        The walk is cut where a distance of two atoms differs by more from that of every known
        geometry, A.
    fmax
        The surface's largest force where it ends, eV/A.
    """
    frame = template.copy()
    frame.set_positions(start, apply_constraint=False)
    frame.calc = SurfaceCalculator(surface)
    walked, unsure = [], False
    for _ in FIRE(frame, logfile=None, maxstep=0.1).irun(fmax=fmax, steps=DOWNHILL_STEPS):
        here = np.array(frame.positions)
        walked.append(here)
        if np.isfinite(reach) and all(distance_between(here, one) > reach for one in known):
            unsure = True
            break
    return Descent(walked=np.array(walked), unsure=unsure)


def _curvature_std(
    surface: Surface, positions: NDArray[np.float64], mode: NDArray[np.float64]
) -> float:
    """Return the posterior std of the curvature along a unit mode, eV/A^2."""
    if surface.process is None:
        return float("inf")
    step = HESSIAN_STEP_ANG
    pair = np.stack([positions + step * mode, positions - step * mode])
    weights = np.stack([mode, -mode])[None] / (2 * step)
    return float(functional_std(surface.process, pair, np.zeros((1, 2)), weights)[0])
