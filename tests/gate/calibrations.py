"""Calibrations made by hand: what is known about some regimes, with a score of one signal."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hybrid_calc.gate.calibrated import RegimeCalibration


@dataclass(frozen=True)
class Table:
    """A calibration of some regimes: the score is a signal called risk."""

    regimes: dict = field(default_factory=dict)
    identity: str = "abc"
    ranges: None = None

    def regime(self, regime):
        return self.regimes.get(regime)

    def novelty(self, descriptors, numbers):
        return np.zeros(len(numbers))


def known(**more):
    return RegimeCalibration(
        **{
            "score": lambda observation: observation.signal("risk"),
            "threshold": 0.3,
            "missed_share": 0.1,
            "validated": True,
            "error_factor": 2.5,
            "frames": 200,
            "failures": 20,
            **more,
        }
    )
