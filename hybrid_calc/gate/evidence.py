"""What the labels of this run have shown so far: who can be trusted where, and by what factor."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.flags.coverage import fingerprint_distance
from hybrid_calc.gate.calibration import ROUNDING, effective_count, weighted_quantile
from hybrid_calc.gate.regime import Regime

BLOCK = 4
"""Frames compared at a time."""
REACH = 1.25
"""How far beyond the largest labelled spread a factor is believed: thermal motion alone moves the
spread that much, and without a margin every new maximum, a per cent above the last, asks again."""
REMEMBERED = 200
"""Validated frames per regime that are remembered; older ones are forgotten first."""


@dataclass(slots=True, kw_only=True)
class Trust:
    """How well a geometry is covered by validated frames nearby.

    Attributes
    ----------
    neighbours
        Validated frames nearby that answered within tolerance, since the last
        one that did not.
    nearest
        Fingerprint distance of the nearest frame looked at, newest first until
        enough were near; infinite where there is none.
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
    weight
        One over the probability with which it was going to be labelled; 1
        where there was a reason.
    """

    fingerprint: NDArray[np.floating]
    spread: float
    error: float
    good: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class _Stack:
    """The frames of one regime, newest first, as they are looked up at every step.

    `errors` is None for a frame that was bad.  Double precision: mixing costs more.
    """

    fingerprints: NDArray[np.float64]
    errors: list[float | None]

    @classmethod
    def of(cls, frames: Iterable[Validated]) -> _Stack:
        newest_first = list(frames)[::-1]
        return cls(
            np.array([frame.fingerprint for frame in newest_first], dtype=np.float64),
            [frame.error if frame.good else None for frame in newest_first],
        )


class Evidence:
    """Validated frames by regime; belongs to one committee."""

    def __init__(self) -> None:
        self._frames: dict[Regime, deque[Validated]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._stacks: dict[Regime, _Stack] = {}
        self._factors: dict[Regime, tuple[float, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._frames.values()))

    def add(self, regime: Regime, frame: Validated) -> None:
        """Take in one labelled frame."""
        frames = self._frames[regime]
        if frames and frames[-1].fingerprint.shape != frame.fingerprint.shape:
            frames.clear()  # another molecule with the same elements
        # Single precision, as `state` writes it: a resumed run decides the same.
        rounded = frame.fingerprint.astype(np.float32)
        frames.append(dataclasses.replace(frame, fingerprint=rounded))
        self._stacks.pop(regime, None)
        self._factors.pop(regime, None)

    def distrust(self, regime: Regime) -> None:
        """Forget what earned trust in a regime; an audit there found a bad frame.

        What was learned about the factor between spread and error stays.
        """
        frames = self._frames[regime]
        kept = [dataclasses.replace(frame, good=False) for frame in frames]
        frames.clear()
        frames.extend(kept)  # ratios are as they were
        self._stacks.pop(regime, None)

    def trust(
        self,
        regime: Regime,
        fingerprint: NDArray[np.floating],
        atoms: NDArray[np.intp] | slice,
        radius: float,
        enough: int,
    ) -> Trust:
        """Return how well the named atoms of a geometry are covered.

        Parameters
        ----------
        regime
            Only frames of this regime count.
        fingerprint
            Of the geometry, shape (N, D).
        atoms
            Indices that must be near, all of them in the same validated frame; a slice for all.
        radius
            Largest fingerprint distance that is nearby.
        enough
            Neighbours after which older frames need not be looked at.
        """
        stack = self._stacks.get(regime)
        if stack is None:
            stack = self._stacks[regime] = _Stack.of(self._frames.get(regime, ()))
        if stack.fingerprints.shape[1:] != fingerprint.shape:
            return Trust()
        neighbours, nearest, worst = 0, math.inf, 0.0
        distances: list[float] = []
        # Newest first, in blocks: enough neighbours or one that was bad settles it.
        for index, error in enumerate(stack.errors):
            if index == len(distances):
                block = stack.fingerprints[index : index + BLOCK]
                distances += fingerprint_distance(fingerprint, block, atoms).tolist()
            distance = distances[index]
            nearest = min(nearest, distance)
            if not distance <= radius:  # a NaN is nowhere near
                continue
            if error is None:
                break
            neighbours += 1
            worst = max(worst, error)
            if neighbours >= enough:
                break
        return Trust(neighbours=neighbours, nearest=nearest, worst_error=worst)

    def factor(
        self,
        regime: Regime,
        spread: float,
        *,
        start: float,
        labels: int,
        quantile: float,
        bounds: tuple[float, float],
    ) -> float:
        """Return the error over spread to expect in a regime; see `estimated_factor`.

        What was learned on calm frames says nothing about wilder ones: where
        `spread` (eV/A) exceeds the largest labelled one by more than `REACH`,
        it is `start` at least.
        """
        if regime not in self._factors:
            frames = [f for f in self._frames.get(regime, ()) if math.isfinite(f.spread)]
            self._factors[regime] = (
                estimated_factor(
                    np.array([frame.error / max(frame.spread, 1e-9) for frame in frames]),
                    np.array([frame.weight for frame in frames]),
                    start=start,
                    labels=labels,
                    quantile=quantile,
                    bounds=bounds,
                ),
                max((frame.spread for frame in frames), default=0.0),
            )
        factor, reach = self._factors[regime]
        return factor if spread <= REACH * reach else max(factor, start)

    def state(self) -> list[dict[str, Any]]:
        """Return everything as JSON-able data."""
        return [
            {
                "regime": regime.to_dict(),
                "frames": [
                    [_pack(frame.fingerprint), frame.spread, frame.error, frame.good, frame.weight]
                    for frame in frames
                ],
            }
            for regime, frames in self._frames.items()
        ]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take back what `state` returned."""
        self._frames.clear()
        self._stacks.clear()
        self._factors.clear()
        for entry in state:
            regime = Regime(**entry["regime"])
            for fingerprint, spread, error, good, weight in entry["frames"]:
                self.add(
                    regime,
                    Validated(
                        fingerprint=_unpack(fingerprint),
                        spread=spread,
                        error=error,
                        good=good,
                        weight=weight,
                    ),
                )


def _pack(fingerprint: NDArray[np.floating]) -> dict[str, Any]:
    """Return an array as JSON-able data of a third of the size of a list."""
    return {
        "shape": list(fingerprint.shape),
        "float32": base64.b64encode(fingerprint.tobytes()).decode(),
    }


def _unpack(packed: dict[str, Any]) -> NDArray[np.float32]:
    values = np.frombuffer(base64.b64decode(packed["float32"]), dtype=np.float32)
    return values.reshape(packed["shape"])


def estimated_factor(
    ratios: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    start: float,
    labels: int,
    quantile: float,
    bounds: tuple[float, float],
) -> float:
    """Return the factor between spread and error to expect.

    `start` until `labels` ratios are there, then their weighted `quantile`
    (the smallest value that at least this share of the weight does not
    exceed), kept within `bounds`.  Where few heavy frames say nearly
    everything, so that the weights amount to fewer than `labels` equal ones,
    it may rise above `start` but not fall below.

    Parameters
    ----------
    ratios
        Error over spread of labelled frames, shape (n,).
    weights
        One over the probability with which each was going to be labelled, shape (n,).
    """
    if len(ratios) < labels:
        return start
    value = min(max(weighted_quantile(ratios, quantile, weights), bounds[0]), bounds[1])
    return value if effective_count(weights) >= labels * (1 - ROUNDING) else max(value, start)
