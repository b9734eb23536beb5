"""What a calibration tells the gate; whoever makes calibrations builds these.

A calibration belongs to one committee.  Under another one it says nothing:
the gate sets it aside and warns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.flags.ranges import TrainingRanges
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import Regime


class CalibrationMismatchWarning(UserWarning):
    """The calibration was made for another committee and is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeCalibration:
    """What labelled frames of one regime allow the gate to do there.

    Attributes
    ----------
    score
        Of an observation: a calibrated P(bad | signals) in [0, 1], or the
        force spread in eV/A.  NaN where it cannot tell; the gate then asks.
    unit
        Of the score: empty for a probability, ``eV/A`` for a spread.
    threshold
        The reference is asked from this score on (score >= threshold).
    missed_share
        Share of the bad frames that may score below the threshold.
    validated
        Whether the threshold has its guarantee; where False the regime counts
        as one without calibration, and the rest is information.
    error_factor
        The force error is within this times the force spread, in the share of
        frames that the calibration aimed at; infinite where there were too few.
    frames
        Independent frames it rests on.
    failures
        Those of them that were bad.
    molecules
        That they show, as `geometry.molecule_of` names them; None where nobody
        knows, and every molecule is then taken for one of them.
    signals
        Names of the signals that the score reads; empty where nobody says.
    novelty_limit
        Novelty beyond which an environment counts as unseen; None where
        novelty is not used.
    evidence
        Frames, failures, threshold, its unit and bound, error factor (None
        where infinite), JSON-able; made once, since every step there shows it.
    standing
        The same in words.
    """

    score: Callable[[Observation], float]
    threshold: float
    missed_share: float
    validated: bool
    error_factor: float
    frames: int
    failures: int
    unit: str = ""
    signals: tuple[str, ...] = ()
    molecules: frozenset[str] | None = None
    novelty_limit: float | None = None
    evidence: Mapping[str, Any] = field(init=False, compare=False)
    standing: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        factor = self.error_factor if math.isfinite(self.error_factor) else None
        evidence = {
            "frames": self.frames,
            "failures": self.failures,
            "threshold": self.threshold,
            "unit": self.unit,
            "missed_share": self.missed_share,
            "error_factor": factor,
        }
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}, {self.failures} bad"
        bound = f"at most {self.missed_share:.0%} of bad ones pass".replace("%", " %")
        object.__setattr__(self, "evidence", evidence)
        object.__setattr__(self, "standing", f"validated by {frames}: {bound}")

    def covers(self, molecule: str | None) -> bool:
        """Tell whether a molecule is among those that were validated; an unnamed one passes."""
        return molecule is None or self.molecules is None or molecule in self.molecules


@runtime_checkable
class Calibration(Protocol):
    """What is known about one committee from labelled frames that it was not trained on."""

    @property
    def identity(self) -> str:
        """Identity of the committee it belongs to (`CommitteeInfo.identity`)."""

    @property
    def ranges(self) -> TrainingRanges | None:
        """What the training frames spanned, or None where nobody knows."""

    def regime(self, regime: Regime) -> RegimeCalibration | None:
        """Return what is known about a regime, None where there were no frames.

        Asked at every geometry: keep it a dictionary look-up.
        """

    def novelty(
        self, descriptors: NDArray[np.float64], numbers: NDArray[np.integer]
    ) -> NDArray[np.floating] | None:
        """Return how far each atom is from what the committee was trained on, shape (N,).

        1 is the 99 % training quantile of its element, infinite an element
        that was not there; None where no novelty model was fitted.

        Parameters
        ----------
        descriptors
            Of the prediction, shape (N, D).
        numbers
            Atomic numbers, shape (N,).
        """
