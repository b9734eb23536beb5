"""Whether forces are the slope of any energy, for members that predict them directly.

The Jacobian of a force that is a gradient is symmetric.  Its antisymmetric
part is energy that comes from nowhere: dynamics heats, and a path's energy
depends on the way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Committee
from hybrid_calc.errors import InputError, PredictionFailed
from hybrid_calc.flags.report import Flag, FlagReport, Severity

STEP_ANG = 0.005
"""Displacement of the finite differences, A."""
PAIRS_AT_START, PAIRS_WHEN_FLAGGED = 6, 2
"""Pairs of random directions; each costs four predictions."""


class NotConservativeWarning(UserWarning):
    """Forces of the committee are not the gradient of an energy."""


def antisymmetry(
    forces_at: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    positions: NDArray[np.float64],
    *,
    pairs: int,
    random: np.random.Generator,
    step: float = STEP_ANG,
) -> NDArray[np.float64]:
    """Return the antisymmetric share of each force Jacobian: 0 for a gradient, at most 1.

    For random directions u and v, u J v and v J u are equal where J is
    symmetric and opposite where it is antisymmetric; the share is the root of
    sum (u J v - v J u)^2 / 2 over sum (u J v)^2 + (v J u)^2.

    Parameters
    ----------
    forces_at
        Forces of M members, eV/A, shape (M, N, 3), of positions, A, shape (N, 3).
    positions
        Where to look, shape (N, 3).
    pairs
        Of directions; four forces each.
    random
        Draws the directions.
    step
        Of the central differences, A.

    Returns
    -------
    One share per member, shape (M,).
    """
    apart = together = np.zeros(1)
    for _ in range(pairs):
        u, v = random.normal(size=(2, *positions.shape))
        u /= np.linalg.norm(u)
        v /= np.linalg.norm(v)
        along_v, along_u = (
            (forces_at(positions + step * way) - forces_at(positions - step * way)) / (2 * step)
            for way in (v, u)
        )
        first, second = ((w * along).sum(axis=(1, 2)) for w, along in ((u, along_v), (v, along_u)))
        apart = apart + (first - second) ** 2 / 2
        together = together + first**2 + second**2
    return np.sqrt(np.divide(apart, together, out=np.zeros_like(apart), where=together > 0))


class ForceCheck:
    """Test a committee whose forces may be no gradient: once at the start, then where flags are up.

    Every member by itself, since the mean of several hides what each does; the worst one counts.
    A committee that is known to differentiate its energy is never tested.

    Parameters
    ----------
    committee
        Whose forces are tested.
    limit
        Antisymmetric share of the Jacobian that is still put down to rounding.
    seed
        Of the directions.
    """

    def __init__(self, committee: Committee, limit: float, seed: int = 0) -> None:
        self._committee, self._limit = committee, limit
        self._random = np.random.default_rng(seed)
        self._started = self._warned = False
        self.watching = committee.info.conservative is not True

    def look(self, atoms: Atoms, report: FlagReport) -> FlagReport:
        """Return the report, with a soft flag where the forces are no gradient.

        Parameters
        ----------
        atoms
            The geometry.
        report
            Its flags so far.
        """
        if not self.watching or (self._started and not report.flags):
            return report
        try:
            share = self._share(atoms, PAIRS_WHEN_FLAGGED if self._started else PAIRS_AT_START)
        except (PredictionFailed, InputError):
            return report  # a displaced geometry is beyond the committee; the next one tells
        self._started = True
        if share <= self._limit:
            return report
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the forces of committee {self._committee.info.name} are not the gradient of an "
                f"energy: {share:.1%} of the Jacobian of a member is antisymmetric. Energies along "
                "paths and conserved quantities mean little; use members that differentiate their "
                "energy.",
                NotConservativeWarning,
                stacklevel=3,
            )
        flag = Flag(name="not_conservative", severity=Severity.SOFT, value=share, limit=self._limit)
        return report.plus((flag,))

    def _share(self, atoms: Atoms, pairs: int) -> float:
        trial = atoms.copy()

        def forces_at(positions: NDArray[np.float64]) -> NDArray[np.float64]:
            trial.positions = positions
            return self._committee.predict(trial).forces

        here = atoms.positions.copy()
        return float(antisymmetry(forces_at, here, pairs=pairs, random=self._random).max())

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, JSON-able."""
        return {
            "started": self._started,
            "warned": self._warned,
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._started, self._warned = state["started"], state["warned"]
        self._random.bit_generator.state = state["random"]
