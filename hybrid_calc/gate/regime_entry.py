"""What calibration found out about one regime: a score, and from where on to ask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import Regime
from hybrid_calc.gate.score import SPREAD, Score

ASK_ALWAYS = 0.0
"""Threshold of a regime without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeEntry:
    """What labelled frames of one regime gave.

    Attributes
    ----------
    regime
        With elements, charge and spin.
    score
        P(bad | signals).
    fitted
        Whether the score was fitted; where not, it is the force spread in other units.
    threshold
        Of the score, asked from there on; None where there were too few bad
        frames to bound what is missed.
    error_factor
        Force error over force spread that is not exceeded in all but
        the missed share of the frames; infinite where there are too few.
    labelled
        Labelled frames.
    frames, failures
        Independent ones among them, and those of these that were bad.
    call_rate, bad_share
        Share of all frames that the threshold asks for, and share that is
        bad, by these frames.
    molecules
        That enough independent frames show, as `geometry.molecule_of` names them.
    novelty_limit
        Largest novelty among the frames, None without novelty.
    """

    regime: Regime
    score: Score
    fitted: bool
    threshold: float | None
    error_factor: float
    labelled: int
    frames: int
    failures: int
    call_rate: float
    bad_share: float
    molecules: tuple[str, ...]
    novelty_limit: float | None = None

    def for_gate(self, missed_share: float) -> RegimeCalibration:
        """Return what the gate asks for; spread alone is shown in its own unit."""
        threshold = ASK_ALWAYS if self.threshold is None else self.threshold
        score, unit = self._probability, ""
        if not self.fitted:
            score, unit = _spread, "eV/A"
            threshold = self._spread_at(threshold)
        return RegimeCalibration(
            score=score,
            unit=unit,
            signals=self.score.signals,
            molecules=frozenset(self.molecules),
            threshold=threshold,
            missed_share=missed_share,
            validated=self.threshold is not None,
            error_factor=self.error_factor,
            frames=self.frames,
            failures=self.failures,
            novelty_limit=self.novelty_limit,
        )

    def _probability(self, observation: Observation) -> float:
        return self.score.probability(observation.signals)

    def _spread_at(self, probability: float) -> float:
        """Return the spread that a score of spread alone gives this probability, eV/A."""
        if not 0 < probability < 1:
            return ASK_ALWAYS
        log_odds = math.log(probability / (1 - probability))
        return math.exp((log_odds - self.score.bias) / self.score.weights[0])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        data = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        finite = self.error_factor if math.isfinite(self.error_factor) else None
        return data | {
            "regime": self.regime.to_dict(),
            "score": self.score.to_dict(),
            "molecules": list(self.molecules),
            "error_factor": finite,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RegimeEntry:
        """Rebuild an entry from `to_dict`."""
        factor = data["error_factor"]
        return cls(
            **{
                **data,
                "regime": Regime(**data["regime"]),
                "score": Score.from_dict(data["score"]),
                "molecules": tuple(data["molecules"]),
                "error_factor": math.inf if factor is None else factor,
            }
        )


def _spread(observation: Observation) -> float:
    return observation.signals.get(SPREAD, math.nan)
