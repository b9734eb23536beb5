"""Everything that happened to one geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.flags.report import FlagReport
from hybrid_calc.gate.calibrated import RegimeCalibration
from hybrid_calc.gate.evidence import Trust
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.policy import Decision, Source
from hybrid_calc.gate.regime import Regime
from hybrid_calc.reference.label import Label


@dataclass(slots=True, kw_only=True)
class Step:
    """Everything that happened to one geometry.

    Nobody changes it.  It is not frozen, nor are the parts it is made of,
    because filling a frozen one takes longer, at every step.

    Attributes
    ----------
    index
        Geometries of the engine before this one.
    prediction
        What the committee said, None where it could not.
    flags
        What physics said.
    observation
        Everything the gate knew.
    regime
        Kind of geometry.
    decision
        Who was to answer and why.
    source
        Who answered: an audit that found nothing leaves the answer to the committee.
    label
        What the reference said, raw, or None.
    energy
        The answer, eV, on the committee's energy zero.
    forces
        The answer, eV/A, shape (N, 3).
    stress
        The answer, Voigt-6, eV/A^3, or None.
    energy_jump
        Change of the potential energy because the source changed here, eV.
    force_error, energy_error
        Of the committee against the label, eV/A and eV; None without both.
    good
        Whether those were within tolerance; None without both.
    verified
        False where the reference should have answered and could not.
    seconds
        Wall time by stage, s.
    """

    index: int
    prediction: Prediction | None
    flags: FlagReport
    observation: Observation
    regime: Regime
    decision: Decision
    source: Source
    label: Label | None
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None
    energy_jump: float
    force_error: float | None
    energy_error: float | None
    good: bool | None
    verified: bool
    seconds: dict[str, float]

    def __str__(self) -> str:
        where = f"{self.regime} ({self.decision.standing})"
        lines = [f"geometry {self.index}, {where}: answered by the {self.source}"]
        if self.force_error is not None and self.energy_error is not None:
            lines[0] += (
                f", committee off by {self.force_error:.2f} eV/A and {self.energy_error:+.3f} eV"
            )
        if not self.verified:
            lines[0] += ", UNVERIFIED"
        lines += [f"- {reason.policy}: {reason.detail}" for reason in self.decision.reasons]
        lines += [f"- not asked, {r.policy}: {r.detail}" for r in self.decision.unpaid]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-able line about the step, without the arrays."""
        decision = self.decision
        return {
            "index": self.index,
            "source": self.source.value,
            "regime": str(self.regime),
            "molecule": self.observation.molecule,
            "mean_temperature": self.flags.mean_temperature,
            "reasons": [[reason.policy, reason.detail] for reason in decision.reasons],
            "unpaid": [[reason.policy, reason.detail] for reason in decision.unpaid],
            "flags": [str(flag) for flag in self.flags.flags],
            "spread": _number(decision.spread),
            "factor": _number(decision.factor),
            "score": _number(decision.score),
            "threshold": decision.threshold,
            "standing": decision.standing,
            "evidence": _evidence(decision.trust, decision.calibration) or None,
            "audit_probability": decision.audit_probability,
            "labelled": self.label is not None,
            "energy": self.energy,
            "energy_jump": self.energy_jump,
            "force_error": self.force_error,
            "energy_error": self.energy_error,
            "good": self.good,
            "verified": self.verified,
            "seconds": self.seconds,
        }


def evidence_of(decision: Decision, observation: Observation) -> dict[str, Any]:
    """Return what a decision rested on: what the gate saw, frames nearby, and calibration."""
    seen = observation.to_dict()
    signals = seen["signals"]
    if "force_spread" in observation.worst_atoms:
        signals = signals | {"worst_atom": observation.worst_atoms["force_spread"]}
    return {
        "observation": seen,
        "signals": signals,
        "evidence": _evidence(decision.trust or Trust(), decision.calibration),
    }


def _evidence(trust: Trust | None, calibration: RegimeCalibration | None) -> dict[str, Any]:
    """Return what stands behind a decision, empty where nothing does.

    How many validated frames are nearby, how far the nearest is and how good
    they are; and what the regime's calibration rests on.
    """
    near: dict[str, Any] = {}
    if trust is not None:
        near = {
            "neighbours": trust.neighbours,
            "nearest": _number(trust.nearest),
            "worst_error": trust.worst_error,
        }
    if calibration is not None:
        near["calibration"] = calibration.evidence
    return near


def _number(value: float) -> float | None:
    """Return a finite number, or None, which JSON knows."""
    return value if math.isfinite(value) else None
