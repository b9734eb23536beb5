"""What the labels of this run have shown so far: who can be trusted where, and by what factor."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.flags.coverage import fingerprint_distance
from hybrid_calc.gate.regime import Regime

REMEMBERED = 200
"""Validated frames per regime that are remembered; older ones are forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How well a geometry is covered by validated frames nearby.

    Attributes
    ----------
    neighbours
        Validated frames nearby that answered within tolerance, since the last
        one that did not.
    nearest
        Fingerprint distance of the nearest validated frame; infinite where there is none.
    worst_error
        Largest force error of those neighbours, eV/A.
    """

    neighbours: int = 0
    nearest: float = float("inf")
    worst_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """One labelled frame, as far as trust and factor need it.

    Attributes
    ----------
    fingerprint
        Environment of each atom, shape (N, D).
    spread, error
        Largest force spread and largest force error, eV/A.
    good
        Whether forces and energy were within tolerance.
    """

    fingerprint: NDArray[np.float64]
    spread: float
    error: float
    good: bool


class Evidence:
    """Validated frames by regime; belongs to one committee."""

    def __init__(self) -> None:
        self._frames: dict[Regime, deque[Validated]] = defaultdict(
            lambda: deque(maxlen=REMEMBERED)
        )
        self._stacks: dict[Regime, NDArray[np.float64]] = {}

    def add(self, regime: Regime, frame: Validated) -> None:
        """Take in one labelled frame."""
        frames = self._frames[regime]
        if frames and frames[-1].fingerprint.shape != frame.fingerprint.shape:
            frames.clear()  # another molecule with the same elements
        frames.append(frame)
        self._stacks.pop(regime, None)

    def distrust(self, regime: Regime) -> None:
        """Forget what earned trust in a regime; an audit there found a bad frame.

        What was learned about the factor between spread and error stays.
        """
        frames = self._frames[regime]
        kept = [
            Validated(
                fingerprint=frame.fingerprint, spread=frame.spread, error=frame.error, good=False
            )
            for frame in frames
        ]
        frames.clear()
        frames.extend(kept)

    def trust(
        self,
        regime: Regime,
        fingerprint: NDArray[np.float64],
        atoms: NDArray[np.intp],
        radius: float,
    ) -> Trust:
        """Return how well the named atoms of a geometry are covered.

        Parameters
        ----------
        regime
            Only frames of this regime count.
        fingerprint
            Of the geometry, shape (N, D).
        atoms
            Indices that must be near, all of them in the same validated frame.
        radius
            Largest fingerprint distance that is nearby.
        """
        frames = self._frames.get(regime)
        if not frames or frames[-1].fingerprint.shape != fingerprint.shape:
            return Trust()
        if regime not in self._stacks:
            self._stacks[regime] = np.array([frame.fingerprint for frame in frames])
        distances = fingerprint_distance(fingerprint, self._stacks[regime], atoms)
        neighbours, worst = 0, 0.0
        for index in np.flatnonzero(distances <= radius):
            frame = frames[index]
            neighbours = neighbours + 1 if frame.good else 0
            worst = max(worst, frame.error) if frame.good else 0.0
        return Trust(neighbours=neighbours, nearest=float(distances.min()), worst_error=worst)

    def ratios(self, regime: Regime) -> NDArray[np.float64]:
        """Return error over spread of every labelled frame of a regime."""
        frames = self._frames.get(regime, ())
        return np.array([frame.error / max(frame.spread, 1e-9) for frame in frames])

    def state(self) -> list[dict[str, Any]]:
        """Return everything as JSON-able data."""
        return [
            {
                "regime": [regime.name, regime.elements, regime.charge, regime.multiplicity],
                "frames": [
                    [frame.fingerprint.tolist(), frame.spread, frame.error, frame.good]
                    for frame in frames
                ],
            }
            for regime, frames in self._frames.items()
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take back what `state` returned."""
        self._frames.clear()
        self._stacks.clear()
        for entry in state:
            name, elements, charge, multiplicity = entry["regime"]
            regime = Regime(
                name=name, elements=elements, charge=charge, multiplicity=multiplicity
            )
            for fingerprint, spread, error, good in entry["frames"]:
                self.add(
                    regime,
                    Validated(
                        fingerprint=np.array(fingerprint), spread=spread, error=error, good=good
                    ),
                )


def estimated_factor(
    ratios: NDArray[np.float64],
    *,
    start: float,
    labels: int,
    quantile: float,
    bounds: tuple[float, float],
) -> float:
    """Return the factor between spread and error to expect.

    `start` until `labels` ratios are there, then their `quantile` (the
    smallest value that at least this share does not exceed), kept within
    `bounds`.
    """
    if len(ratios) < labels:
        return start
    value = float(np.quantile(ratios, quantile, method="inverted_cdf"))
    return min(max(value, bounds[0]), bounds[1])
