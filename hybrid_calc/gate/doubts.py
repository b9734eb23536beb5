"""Calibrations that the audits of a run contradict."""

from __future__ import annotations

import warnings
from typing import Any

from hybrid_calc.gate.control import contradicts
from hybrid_calc.gate.regime import Regime


class CalibrationDoubtedWarning(UserWarning):
    """Audits found more bad frames than the calibration of a regime allows; it is set aside."""


class Doubts:
    """Count bad frames of calibrated regimes and set aside what promised too much."""

    def __init__(self) -> None:
        self._found: dict[Regime, list[int]] = {}
        self._why: dict[Regime, str] = {}

    def __contains__(self, regime: Regime) -> bool:
        return regime in self._why

    @property
    def why(self) -> dict[str, str]:
        """Regimes whose calibration is set aside, and why."""
        return {str(regime): why for regime, why in self._why.items()}

    def add_bad(
        self, regime: Regime, *, audited: bool, probability: float, missed_share: float
    ) -> None:
        """Take in a frame that the committee got wrong.

        Parameters
        ----------
        regime
            Of the frame; it is calibrated.
        audited
            Whether nothing but chance asked: the threshold missed it.
        probability
            Of an audit there.
        missed_share
            Share of the bad frames that the calibration lets pass at most.
        """
        counts = self._found.setdefault(regime, [0, 0])
        counts[audited] += 1
        asked, missed = counts
        if not contradicts(asked, missed, probability, missed_share):
            return
        why = (
            f"audits found {missed} bad frames below its threshold and {asked} were asked; it "
            f"promises to miss at most {missed_share:.0%} of bad frames"
        )
        self._why[regime] = why
        warnings.warn(
            f"the calibration of {regime} is set aside for this run: {why}.",
            CalibrationDoubtedWarning,
            stacklevel=4,
        )

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "found": [[regime.to_dict(), *both] for regime, both in self._found.items()],
            "why": [[regime.to_dict(), why] for regime, why in self._why.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._found = {Regime(**regime): both for regime, *both in state["found"]}
        self._why = {Regime(**regime): why for regime, why in state["why"]}
